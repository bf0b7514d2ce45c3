// The filters and the search of a page of answers.  Holds no data: it reads what stands in the page, and writes text only.
"use strict";
(() => {
  const rows = [...document.querySelectorAll("article.row")];
  const groups = [...document.querySelectorAll("section.group")];
  const form = document.getElementById("choose");
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  if (!form) return;

  const folded = (text) => text.normalize("NFKC").toLowerCase();
  const said = rows.map((row) => folded([...row.querySelectorAll(".said")].map((part) => part.textContent).join("\n")));

  const choose = () => {
    const wanted = [...form.querySelectorAll("input[type=radio]:checked")].map((input) => input.value).filter(Boolean);
    const words = folded(search.value).split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, place) => {
      const fits =
        wanted.every((name) => row.classList.contains(name)) && words.every((word) => said[place].includes(word));
      row.hidden = !fits;
      count += fits ? 1 : 0;
    });
    for (const group of groups) group.hidden = !group.querySelector("article.row:not([hidden])");
    shown.textContent = count.toLocaleString("en");
  };

  let soon = 0;
  const later = () => {
    clearTimeout(soon);
    soon = setTimeout(choose, 120); // a quick typist waits for one search, not for one a letter
  };
  form.addEventListener("input", (event) => (event.target === search ? later() : choose()));
  form.addEventListener("reset", () => setTimeout(choose)); // the fields are empty only after the event
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search) {
      event.preventDefault();
      search.focus();
    }
  });
  document.body.classList.add("chosen"); // the filters are shown only where they work
  choose();
})();
