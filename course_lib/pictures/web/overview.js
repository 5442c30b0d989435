/* The overview of a dashboard: a click on a row, or the menu, chooses the attribute whose curves are drawn.
 *
 * All is drawn in the page already; this script only says which row and which curves are the chosen ones, and which
 * measure the rows show. Without it they stay as they are.
 */
(() => {
  function enliven(root) {
    const all = (selector) => [...root.querySelectorAll(selector)];
    const curves = all(".curves .one"), rows = all(".row"), measures = all(".measure");
    const menu = (label, names) => {
      const box = document.createElement("label"), select = document.createElement("select");
      for (const [value, name] of names) select.add(new Option(name, value));
      box.append(`${label} `, select);
      root.querySelector(".controls").append(box);
      return select;
    };
    const measure = menu("rows show", measures.map((group) => [group.dataset.name, group.dataset.name]));
    measure.value = measures.find((group) => group.style.display !== "none").dataset.name;
    const attribute = menu("curves of", curves.map((group) => [group.dataset.k, group.dataset.name]));
    measure.addEventListener("change", () => {
      for (const group of measures) group.style.display = group.dataset.name === measure.value ? "" : "none";
    });
    const choose = () => {
      for (const group of [...rows, ...curves]) group.classList.toggle("chosen", group.dataset.k === attribute.value);
      const chosen = curves.find((group) => group.dataset.k === attribute.value);
      chosen.parentNode.append(chosen);                                           // drawn last, on top of the others
      root.querySelector(".says").textContent = chosen.dataset.says;
    };
    attribute.addEventListener("change", choose);
    for (const row of rows) row.addEventListener("click", () => {
      attribute.value = row.dataset.k;
      choose();
    });
    choose();
  }
  for (const root of document.querySelectorAll(".overview:not([data-live])")) {
    root.dataset.live = "";
    enliven(root);
  }
})();
