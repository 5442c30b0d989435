// What keeps a page from being used without eyes, a mouse or colour: the automatic checks of WCAG 2.2 that axe counts as
// serious or critical, and two that it does not (the order of headings, landmarks). A list of sentences, empty for a good page.
() => {
  const faults = [], all = (selector) => [...document.querySelectorAll(selector)];
  const say = (element, words) => faults.push(`${element.tagName.toLowerCase()}${element.id ? `#${element.id}` : ""} `
    + `“${(element.textContent || element.getAttribute("src") || "").trim().replace(/\s+/g, " ").slice(0, 40)}” ${words}`);
  const seen = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest("[aria-hidden=true], [inert]");
  const focusable = "a[href], button, input:not([type=hidden]), select, textarea, summary, iframe, [tabindex], [contenteditable=true]";

  // the page
  if (!/^[a-z]{2,3}(-[A-Za-z0-9]+)*$/.test(document.documentElement.lang)) faults.push("html names no language");
  if (!document.title.trim()) faults.push("the page has no title");
  if (/user-scalable\s*=\s*no|maximum-scale\s*=\s*1\b/.test(document.querySelector("meta[name=viewport]")?.content)) faults.push("the page forbids zooming");

  // ids and ARIA
  const counts = Map.groupBy(all("[id]"), (element) => element.id);
  for (const [id, elements] of counts) if (elements.length > 1) faults.push(`the id ${id} is used ${elements.length} times`);
  const ROLES = new Set(`alert alertdialog application article banner button cell checkbox columnheader combobox complementary contentinfo
    definition dialog document feed figure form grid gridcell group heading img image link list listbox listitem log main marquee math menu
    menubar menuitem menuitemcheckbox menuitemradio meter navigation none note option presentation progressbar radio radiogroup region row
    rowgroup rowheader scrollbar search searchbox separator slider spinbutton status switch tab table tablist tabpanel term textbox timer
    toolbar tooltip tree treegrid treeitem`.split(/\s+/));
  const ARIA = new Set(`activedescendant atomic autocomplete braillelabel brailleroledescription busy checked colcount colindex colspan controls
    current describedby description details disabled errormessage expanded flowto haspopup hidden invalid keyshortcuts label labelledby
    level live modal multiline multiselectable orientation owns placeholder posinset pressed readonly relevant required roledescription
    rowcount rowindex rowspan selected setsize sort valuemax valuemin valuenow valuetext`.split(/\s+/).map((name) => `aria-${name}`));
  const NEEDS = { checkbox: "checked", switch: "checked", radio: "checked", slider: "valuenow", heading: "level", combobox: "expanded" };
  const INSIDE = { tab: "tablist", option: "listbox", listitem: "list", row: "table, grid, rowgroup", menuitem: "menu, menubar", radio: "" };
  for (const element of all("*")) {
    for (const { name, value } of element.attributes) {
      if (name.startsWith("aria-") && !ARIA.has(name)) say(element, `has ${name}, which is no ARIA attribute`);
      if (["aria-labelledby", "aria-describedby", "aria-controls", "aria-owns", "for"].includes(name)) {
        for (const id of value.split(/\s+/)) if (id && !document.getElementById(id)) say(element, `has ${name}=${id}, which is not there`);
      }
      if (/^aria-(checked|pressed|expanded|selected|hidden|disabled|modal)$/.test(name) && !["true", "false", "mixed"].includes(value)) say(element, `has ${name}=${value}`);
    }
    const role = element.getAttribute("role");
    if (!role) continue;
    if (!ROLES.has(role)) say(element, `has the role ${role}, which there is not`);
    if (NEEDS[role] && !element.hasAttribute(`aria-${NEEDS[role]}`) && !element.matches("input, select, h1, h2, h3, h4")) say(element, `is a ${role} without aria-${NEEDS[role]}`);
    const parents = INSIDE[role]?.split(", ").filter(Boolean).map((name) => `[role=${name}]`) ?? [];
    if (parents.length && !element.closest(`${parents}, ul, ol, table, select`)) say(element, `is a ${role} outside of ${INSIDE[role]}`);
  }
  for (const element of all("[aria-hidden=true]")) {
    if ([element, ...element.querySelectorAll(focusable)].some((one) => one.tabIndex >= 0 && one.matches(focusable) && one.checkVisibility())) say(element, "is hidden and takes the focus");
  }

  // what a mouse and a keyboard reach
  for (const element of all("[tabindex]")) if (element.tabIndex > 0) say(element, "has a tabindex above 0");
  const CONTROLS = "a[href], button, select, textarea, summary, input, [role=button], [role=link], [role=checkbox], [role=slider], [role=tab]";
  for (const element of all(CONTROLS)) {
    const outer = element.parentElement?.closest("a[href], button, summary, [role=button], [role=link]");
    if (outer) say(element, `is a control inside a ${outer.tagName.toLowerCase()}`);
  }
  for (const element of all("*")) {
    const { overflowX, overflowY } = getComputedStyle(element), scrolls = /auto|scroll/;
    const wide = scrolls.test(overflowX) && element.scrollWidth > element.clientWidth + 1, high = scrolls.test(overflowY) && element.scrollHeight > element.clientHeight + 1;
    if ((wide || high) && element !== document.documentElement && element !== document.body && seen(element)
        && element.tabIndex < 0 && !element.querySelector(focusable)) say(element, "scrolls, and no key reaches it");
  }

  // headings, landmarks, lists
  let level = 0;
  const headings = all("h1, h2, h3, h4, h5, h6, [role=heading]").filter(seen);
  for (const heading of headings) {
    const now = Number(heading.getAttribute("aria-level") ?? heading.tagName[1]);
    if (now > level + 1) say(heading, `is an h${now} after an h${level}`);
    if (!heading.textContent.trim()) say(heading, "is an empty heading");
    level = now;
  }
  if (headings.filter((one) => one.matches("h1")).length !== 1) faults.push(`there are ${headings.filter((one) => one.matches("h1")).length} h1`);
  const mains = all("main, [role=main]").filter(seen);
  if (mains.length !== 1) faults.push(`there are ${mains.length} main landmarks`);
  const navigation = all("nav, [role=navigation]").filter(seen).map((one) => one.getAttribute("aria-label") ?? "");
  if (navigation.length > 1 && (new Set(navigation).size < navigation.length || navigation.includes(""))) faults.push("two navigations have one name");
  for (const list of all("ul, ol")) {
    if ([...list.children].some((one) => !one.matches("li, script, template"))) say(list, "holds more than items");
    if (list.hasAttribute("role") && !["list", "listbox", "tablist", "menu", "tree"].includes(list.getAttribute("role"))) say(list, "is a list by its name alone");
  }
  for (const item of all("li")) if (!item.parentElement.matches("ul, ol, menu")) say(item, "is an item without a list");
  for (const item of all("dt, dd")) if (!item.parentElement.matches("dl, dl > div")) say(item, "is a term without a list");

  // contrast of text; over pictures and gradients nothing can be said
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const channels = (colour) => {
    if (!known.has(colour)) {
      context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((value, at) => value * a + under[at] * (1 - a));
  const luminance = (colour) => colour.map((value) => value / 255).map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (element) => {                                // undefined: something that is no plain colour lies behind
    const above = [];
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none" || at.matches("svg, canvas")) return undefined;
      const colour = channels(style.backgroundColor);
      above.unshift(colour);
      if (colour[3] === 1) break;
      if (/absolute|fixed/.test(style.position)) return undefined;
    }
    return above.reduce((under, colour) => over(colour, under), channels("canvas").slice(0, 3));
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), done = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || done.has(element) || element.matches("script, style, option, noscript, template") || !seen(element)) continue;
    done.add(element);
    if (element.closest("[disabled], [aria-disabled=true]") || element.closest("svg") || !element.getClientRects().length) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;             // for readers alone
    let shown = 1;
    for (let at = element; at; at = at.parentElement) shown *= Number(getComputedStyle(at).opacity);
    const behind = ground(element), style = getComputedStyle(element), ink = channels(style.color);
    if (!behind || shown === 0) continue;
    const front = over([...ink.slice(0, 3), ink[3] * shown], behind), size = parseFloat(style.fontSize);
    const [dim, bright] = [luminance(front), luminance(behind)].sort((one, other) => one - other);
    const ratio = (bright + 0.05) / (dim + 0.05), least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < least) say(element, `has a contrast of ${ratio.toFixed(2)}, and ${least} is asked`);
  }
  for (const link of all("p a[href]").filter(seen)) {
    const plain = getComputedStyle(link.closest("p"));
    if (link.textContent.trim() && link.closest("p").textContent.trim() !== link.textContent.trim() && getComputedStyle(link).textDecorationLine === "none"
        && getComputedStyle(link).borderStyle === "none" && getComputedStyle(link).fontWeight === plain.fontWeight) say(link, "differs from its text by colour alone");
  }
  return [...new Set(faults)];
}
