"""Pages of the site, as they are used without eyes, a mouse or colour, and each fault that the check
must find.
"""

import nbformat
import pytest
from audit import audit

PAGE = """<!doctype html><html lang="en"><head><title>A page</title></head><body>
<nav aria-label="Lessons"><ul><li><a href="#a">One</a></li></ul></nav>
<main id="a"><h1>A page</h1><h2>A part</h2><p>Text with <a href="#a">a link</a>.</p>
<label>Step <input type="range"></label><button>Go</button>{}</main></body></html>"""
PAGES = [
    "index.html",
    "00_start_here.html",
    "04_cross_attention.html",
    "10_attention_explorer.html",
    "14_capstone.html",
    "cheatsheet.html",
]


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    """The site's pages with the lessons' text and without their outputs, beside the explorer's page
    as it is.
    """
    from tools.site import site

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tools.site.executed", lambda root, path, target: (nbformat.read(path, 4), [])
        )
        patch.setattr("tools.site._kept", lambda root, explorer: explorer())
        site(str(folder))
    return folder


def opened(browser, address, scheme="light", width=1280):
    context = browser.new_context(
        offline=True, color_scheme=scheme, viewport={"width": width, "height": 900}
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_load_state("load")
    return page


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_pages_of_the_site_are_for_everyone(browser, prose, scheme, width):
    for name in [*PAGES, "explorer.html"]:
        page = opened(browser, (prose / name).as_uri(), scheme, width)
        if name in ("index.html", "explorer.html"):
            page.frames[-1].locator("[role=option]").first.wait_for()
        assert audit(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.context.close()


@pytest.mark.browser
def test_the_search_finds_grad_cam_from_every_page(browser, prose):
    for name in PAGES:
        page = opened(browser, (prose / name).as_uri())
        page.get_by_role("searchbox").fill("grad-cam")
        links = page.locator("#site-results a")
        links.first.wait_for()
        assert any(text.startswith("11 ·") for text in links.all_inner_texts()), name
        assert audit(page) == [], name
        link = links.first.get_attribute("href")
        links.first.click()
        page.wait_for_url(f"**/{link}")
        page.context.close()


@pytest.mark.browser
def test_a_good_page_has_no_fault(browser):
    page = opened(browser, "about:blank")
    page.set_content(PAGE.format(""))
    assert audit(page) == []
    page.context.close()


FAULTS = [
    ("<button><span></span></button>", "button-name"),
    ('<a href="#a"></a>', "link-name"),
    ('<img src="data:," >', "image-alt"),
    ("<select><option>x</option></select>", "select-name"),
    ('<iframe srcdoc="x"></iframe>', "frame-title"),
    ('<iframe title="x" srcdoc="<button></button>"></iframe>', "button-name"),
    ('<p style="color: #999">Faint words</p>', "color-contrast"),
    ("<h4>Deep</h4>", "heading-order"),
    ("<table><tr><th></th></tr><tr><td>x</td></tr></table>", "empty-table-header"),
    ('<input type="text">', "label"),
    ('<p style="opacity: .4">Faint words</p>', "color-contrast"),
    ("<h3></h3>", "empty-heading"),
    ('<div role="main">x</div>', "landmark-no-duplicate-main"),
    ('<nav aria-label="Lessons">x</nav>', "landmark-unique"),
    ("<ul><div>x</div></ul>", "list"),
    ("<li>x</li>", "listitem"),
    ('<p tabindex="3">x</p>', "tabindex"),
    ('<p role="headline">x</p>', "aria-roles"),
    ('<p role="slider" aria-label="x">x</p>', "aria-required-attr"),
    ('<p role="tab" aria-label="x">x</p>', "aria-required-parent"),
    ('<p>Text <a href="#a" style="text-decoration: none">b</a></p>', "link-in-text-block"),
    ('<p aria-labeled="x">x</p>', "aria-valid-attr"),
    ('<div aria-hidden="true"><button>x</button></div>', "aria-hidden-focus"),
    ('<p style="overflow: auto; width: 9rem; white-space: pre">' + "x" * 99, "scrollable-region"),
    ('<meta name="viewport" content="user-scalable=no">', "meta-viewport"),
]


@pytest.mark.browser
@pytest.mark.parametrize(("planted", "rule"), FAULTS)
def test_a_planted_fault_is_found(browser, planted, rule):
    page = opened(browser, "about:blank")
    page.set_content(PAGE.format(planted))
    assert any(fault.startswith(rule) for fault in audit(page)), audit(page)
    page.context.close()


@pytest.mark.browser
def test_a_page_without_language_and_title_is_found(browser):
    page = opened(browser, "about:blank")
    page.set_content("<main><h1>x</h1></main>")
    assert {fault.split(":")[0] for fault in audit(page)} == {"document-title", "html-has-lang"}
    page.context.close()
