"use strict";

/* Elements are only ever made of text: names of tracks and systems are never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const namespace = "http://www.w3.org/2000/svg";
  const element = ["svg", "path"].includes(tag)
    ? document.createElementNS(namespace, tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function decimals(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size && size < 0.1 ? 4 : 2);
}

function number(value) {
  return value === null || value === undefined ? "–" : decimals(value).replaceAll("-", "−");
}

/* How good a value is, so that more is better; null where there is none. */
function merit(metric, value) {
  if (value === null || value === undefined) return null;
  if (metric.better === "lower") return -value;
  return metric.better === "zero" ? -Math.abs(value) : value;
}

/* Which of the values are the best, as far as is shown; none if all are alike. */
function best(metric, values) {
  const merits = values.map((value) => merit(metric, value));
  const known = values.filter((value, index) => merits[index] !== null);
  const top = Math.max(...merits.filter((value) => value !== null));
  const winner = number(values[merits.indexOf(top)]);
  const several = known.some((value) => number(value) !== winner);
  return values.map((value) => several && number(value) === winner);
}

const BETTER = { higher: "higher is better", lower: "lower is better", zero: "0 is best" };

/* A table that a click on a heading sorts.
   columns: {title, colour?}; rows: {cells: [{text | node, key, best?, title?}], current?};
   sorted: {column, descending} or {}, kept up to date. Without a value goes last, either way. */
function sortable(columns, rows, sorted, page, caption) {
  const head = make("tr");
  const body = make("tbody");
  const table = make("table", {}, make("caption", { class: "hidden" }, caption),
    make("thead", {}, head), body);

  function fill() {
    const order = rows.slice();
    if (sorted.column !== undefined) {
      order.sort((a, b) => {
        const [x, y] = [a.cells[sorted.column].key, b.cells[sorted.column].key];
        if (x === y) return 0;
        if (x === null || x === undefined) return 1;
        if (y === null || y === undefined) return -1;
        const sign = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true })
          : x - y;
        return sorted.descending ? -sign : sign;
      });
    }
    const shown = page ? order.slice(page.first, page.first + page.size) : order;
    body.replaceChildren(...shown.map(row));
    [...head.children].forEach((heading, index) => {
      const direction = sorted.descending ? "descending" : "ascending";
      if (index === sorted.column) heading.setAttribute("aria-sort", direction);
      else heading.removeAttribute("aria-sort");
    });
  }

  function row({ cells, current }) {
    return make("tr", { "aria-current": current ? "true" : null },
      ...cells.map((cell, index) => make(index ? "td" : "th", {
        scope: index ? null : "row",
        class: cell.best ? "best" : null,
        title: cell.title,
      }, cell.node ?? cell.text, cell.small ? make("small", {}, ` ${cell.small}`) : null)));
  }

  columns.forEach((column, index) => {
    const button = make("button", {
      type: "button",
      style: column.colour ? `--colour: ${column.colour}` : null,
      onclick: () => {
        const same = sorted.column === index;
        // Numbers begin with the largest.
        sorted.descending = same ? !sorted.descending : index > 0;
        sorted.column = index;
        if (page) page.first = 0;
        fill();
        page?.changed();
      },
    }, column.title);
    head.append(make("th", { scope: "col" }, button));
  });
  fill();
  return table;
}

/* Buttons of which one is on; arrow keys go from one to the next. */
function choose(container, options, current, pick) {
  const hasFocus = container.contains(document.activeElement);
  container.replaceChildren(...options.map(({ value, title, hint, style }) => make("button", {
    type: "button",
    role: "radio",
    "aria-checked": String(value === current),
    tabindex: value === current ? "0" : "-1",
    title: hint,
    style,
    onclick: () => pick(value),
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const index = options.findIndex((option) => option.value === value) + step;
      pick(options[(index + options.length) % options.length].value);
      container.querySelector('[aria-checked="true"]')?.focus();
    },
  }, title)));
  if (hasFocus) container.querySelector('[aria-checked="true"]')?.focus();
}

function mark(container, index) {
  [...container.children].forEach((button, place) => {
    button.setAttribute("aria-checked", String(place === index));
    button.tabIndex = place === index ? 0 : -1;
    if (place === index) container.scrollLeft = button.offsetLeft - container.clientWidth / 3;
  });
}
