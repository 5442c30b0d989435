"""What an automatic check says against a page in the browser, by the page's own elements and by
the names that Chromium hands to screen readers.
"""

from pathlib import Path

CHECKS = (Path(__file__).parent / "audit.js").read_text(encoding="utf-8")
NAMED = {  # roles of Chromium's tree that a reader meets by their name
    *("button", "checkbox", "combobox", "image", "Iframe", "link", "listbox", "menuitem"),
    *("radio", "searchbox", "slider", "spinbutton", "switch", "tab", "textbox", "dialog"),
    *("DisclosureTriangle", "progressbar", "meter", "ComboBoxSelect", "graphics-document"),
}


def audit(page) -> list[str]:
    """The faults of the page that a Playwright `page` shows; frames are audited as pages of their
    own.
    """
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    nameless = [
        f"a {node['role']['value']} has no name"
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]
    return page.evaluate(f"({CHECKS})()") + sorted(set(nameless))
