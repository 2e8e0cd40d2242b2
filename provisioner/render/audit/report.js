"use strict";
// Sorts keys within an environment and searches them. The page is complete without it.
(() => {
  const ROWS_PER_GROUP = 50;
  const order = new Intl.Collator("en", { numeric: true });
  const tools = document.getElementById("tools");
  const search = document.getElementById("search");
  const sorting = document.getElementById("sort");
  const descending = document.getElementById("descending");
  const shown = document.getElementById("shown");
  const total = shown.textContent;

  const environments = [...document.querySelectorAll(".environment")].map((section) => {
    const table = section.querySelector("table");
    return {
      section,
      table,
      name: section.querySelector("h3").textContent.toLowerCase(),
      // What is said above the table: the address, a failure, the names of missing keys.
      about: [...section.querySelectorAll("h3, p")].map((one) => one.textContent).join(" ").toLowerCase(),
      rows: table ? [...table.rows].slice(1).map((row) => ({ row, text: null })) : [],
    };
  });

  const text = (environment, one) =>
    (one.text ??= `${environment.name} ${one.row.textContent.toLowerCase()}`);

  // Put the rows that match into groups, which the browser lays out when they come near the window.
  function fill(environment, rows) {
    const groups = [];
    for (let start = 0; start < rows.length; start += ROWS_PER_GROUP) {
      const group = document.createElement("tbody");
      const part = rows.slice(start, start + ROWS_PER_GROUP);
      group.append(...part.map((one) => one.row));
      group.className = [...new Set(part.flatMap((one) => [...one.row.classList]))].join(" ");
      group.style.setProperty("--rows", part.length);
      groups.push(group);
    }
    for (const group of [...environment.table.tBodies]) group.remove();
    environment.table.append(...groups);
  }

  function update(changed = environments) {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const mark = document.querySelector("input[name=show]:checked").value;
    const matches = (string) => words.every((word) => string.includes(word));
    for (const environment of changed) {
      const rows = environment.rows.filter((one) => matches(text(environment, one)));
      if (environment.table) {
        fill(environment, rows);
        environment.table.hidden = !rows.length;
      }
      environment.section.hidden = !rows.length && !matches(environment.about);
    }
    let count = 0;
    for (const { section, table } of environments) {
      if (!table || section.hidden) continue;
      count += mark
        ? table.querySelectorAll(`tbody > tr.${mark}`).length
        : table.querySelectorAll("tbody > tr").length;
    }
    const ofKeys = words.length || (mark && !["missing", "unreached"].includes(mark));
    shown.textContent = ofKeys ? `${count} of ${total}` : total;
  }

  function sort(environment, column, down) {
    const heads = environment.table.tHead.rows[0].cells;
    for (const one of heads) one.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const values = new Map();
    for (const one of environment.rows) {
      values.set(one, one.row.cells[column].firstChild?.textContent ?? "");
    }
    environment.rows.sort((left, right) => {
      const [one, other] = [values.get(left), values.get(right)];
      // Rows without a value come last in both directions.
      if (!one || !other) return !one - !other;
      return down ? order.compare(other, one) : order.compare(one, other);
    });
  }

  function sortAll() {
    for (const one of tables) sort(one, Number(sorting.value), descending.checked);
    update(tables);
  }

  const tables = environments.filter((one) => one.table);
  for (const environment of tables) {
    [...environment.table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => {
        sort(environment, column, head.getAttribute("aria-sort") === "ascending");
        update([environment]);
      });
      head.replaceChildren(button);
      if (head.hasAttribute("data-sorted")) head.setAttribute("aria-sort", "ascending");
      if (environment === tables[0]) {
        sorting.add(new Option(button.textContent, column, false, head.hasAttribute("data-sorted")));
      }
    });
  }

  for (const one of [sorting, descending]) one.addEventListener("change", sortAll);
  let waiting;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 150);
  });
  for (const choice of document.querySelectorAll("input[name=show]")) {
    choice.addEventListener("change", () => update([]));
  }
  tools.hidden = false;
})();
