"use strict";
{
  const at = (id) => document.getElementById(id);
  const text = at("record").textContent;
  const record = JSON.parse(text);
  const [show, sort, search] = [at("show"), at("sort"), at("search")];
  const alike = new Intl.Collator(undefined, { numeric: true });
  const items = record.pictures.map((picture, row) => ({
    row,
    path: picture.path,
    probability: picture.probability,
    element: at(`picture-${row}`),
    // What `show` may be set to for it to be seen.
    shownBy: new Set([
      "all",
      picture.error !== null ? "unread" : picture.label === null ? "rejected" : "answered",
      picture.error !== null || picture.label === null
        ? "" : String(record.classes.indexOf(picture.label)),
    ]),
  }));

  // Pictures without a probability come last.
  const sure = (sign) => (one, other) =>
    (one.probability === null) - (other.probability === null) ||
    sign * (one.probability - other.probability) || one.row - other.row;
  const orders = {
    given: (one, other) => one.row - other.row,
    least: sure(1),
    most: sure(-1),
    name: (one, other) => alike.compare(one.path, other.path) || one.row - other.row,
  };

  const buttons = [];
  const arrange = () => {
    const part = search.value.toLowerCase();
    let seen = 0;
    for (const item of items) {
      const shown = item.shownBy.has(show.value) && item.path.toLowerCase().includes(part);
      item.element.hidden = !shown;
      seen += shown;
    }
    at("cards").append(...[...items].sort(orders[sort.value]).map((item) => item.element));
    at("shown").textContent = `${seen} of ${items.length} shown`;
    for (const [button, value] of buttons) {
      button.setAttribute("aria-pressed", String(value === show.value));
    }
  };

  // Counts become buttons that show what they count; pressed again, they show all.
  for (const place of document.querySelectorAll("[data-show]")) {
    const button = document.createElement("button");
    const value = place.dataset.show;
    button.type = "button";
    const inside = place.querySelector("th") ?? place;
    button.append(...inside.childNodes);
    inside.append(button);
    button.addEventListener("click", () => {
      show.value = show.value === value ? "all" : value;
      arrange();
    });
    buttons.push([button, value]);
  }

  at("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "predictions.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("controls").addEventListener("input", arrange);
  at("controls").hidden = false;
  arrange();
}
