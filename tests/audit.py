"""What axe says against a page in the browser."""

from axe_playwright_python.base import AXE_SCRIPT

OPTIONS = {"iframes": False, "preload": False, "resultTypes": ["violations"]}
# of a page as a whole, not of what stands in a frame of it
WHOLE = ["landmark-one-main", "page-has-heading-one", "region"]


def audit(page) -> list[str]:
    """The faults of what a Playwright `page` shows, however small, and of the frames in it."""
    faults = []
    for frame in page.frames:
        frame.evaluate(AXE_SCRIPT)
        rules = {"label-content-name-mismatch": {"enabled": True}}  # axe calls it experimental
        if frame.parent_frame:
            rules |= {name: {"enabled": False} for name in WHOLE}
        found = frame.evaluate("options => axe.run(document, options)", OPTIONS | {"rules": rules})
        faults += [
            f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]
    return faults
