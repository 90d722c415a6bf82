// The page: one SAE is chosen for all figures, and the theme.
const PAUSE = 1000; // the reader comes first: what is out of sight is drawn after this
const chooseSae = async (index) => {
  const about = await unpack("about");
  const name = about.saes[index];
  await Promise.all([...tables.map((table) => table.of(name ?? null)), ...figures.map((figure) => figure.of(index, name))]);
};

const startTheme = () => {
  $("#theme")?.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
};

const startPrint = () => {
  let chosen;
  addEventListener("beforeprint", () => {
    chosen = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    document.documentElement.dataset.paper = "yes";
    tables.forEach((table) => table.show(300));
    redraw();
  });
  addEventListener("afterprint", () => {
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
    delete document.documentElement.dataset.paper;
    tables.forEach((table) => table.show());
    redraw();
  });
};

const start = async () => {
  if (!window.DecompressionStream) {
    document.body.prepend(make("p", { className: "old", textContent: "This browser is too old to unpack the figures; the tables below show what there is." }));
    return;
  }
  startTheme();
  startPrint();
  startTables();
  startFigures();
  const chooser = $("#sae");
  chooser?.addEventListener("change", () => chooseSae(Number(chooser.value)));
  const about = await unpack("about");
  tables.forEach((table) => (table.sae = about.saes[0] ?? null));
  figures.forEach((figure) => figure.of(0, about.saes[0]));
  watchFigures();
  document.documentElement.dataset.open = "yes";
  performance.mark("open");
  setTimeout(drawRest, PAUSE);
};

start();
