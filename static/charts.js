// Chart.js charts; what they draw stands in the page as JSON and changes with it.
(() => {
  "use strict";
  const charts = new Map();
  let drawn = "";

  const TONES = ["busy", "draining", "idle", "starting", "lost", "standby"];
  // Lines are told apart by their dashes, too, and outcomes by the shapes of their points.
  const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [1, 4]];
  const POINTS = { success: "circle", failure: "crossRot", timeout: "triangle", lost: "triangle", cancelled: "rect" };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function dataset(line, index, told) {
    const tone = colour(line.tone || TONES[index % TONES.length]);
    const found = {
      label: line.label,
      data: line.values,
      borderColor: tone,
      // The colours are six digits; two more make them transparent.
      backgroundColor: told.stacks ? `${tone}40` : tone,
      borderDash: DASHES[index % DASHES.length],
      borderWidth: 2,
      fill: told.stacks && (index ? "-1" : "origin"),
      pointRadius: line.values.length === 1 ? 3 : 0,
      spanGaps: true,
      tension: 0,
      yAxisID: line.axis === "right" ? "right" : "y",
    };
    if (line.style === "steps") Object.assign(found, { stepped: true, borderDash: [5, 4] });
    if (line.style === "points") {
      Object.assign(found, { pointStyle: told.notes.map((note) => POINTS[note] ?? "circle"), pointRadius: 4 });
    }
    return found;
  }

  function options(told) {
    const text = colour("muted");
    const axis = { ticks: { color: text, maxTicksLimit: 5 }, grid: { color: colour("line") }, border: { display: false } };
    const right = { ...axis, position: "right", beginAtZero: true, grid: { display: false } };
    return {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { ...axis, ticks: { ...axis.ticks, maxRotation: 0 }, grid: { display: false } },
        y: { ...axis, beginAtZero: true, stacked: told.stacks, max: told.most ?? undefined },
        ...(told.lines.some((line) => line.axis === "right") ? { right } : {}),
      },
      plugins: {
        legend: { labels: { color: text, boxWidth: 18, boxHeight: 1 }, align: "start" },
        tooltip: { callbacks: { afterTitle: (items) => told.notes[items[0].dataIndex] } },
      },
    };
  }

  function draw(name, box, told) {
    const labels = told.labels ?? told.at.map((at) => new Date(at).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }));
    const data = { labels, datasets: told.lines.map((line, index) => dataset(line, index, told)) };
    const chart = charts.get(name);
    if (chart && chart.canvas.isConnected) {
      Object.assign(chart, { data, options: options(told) });
      chart.update("none");
      return;
    }
    chart?.destroy();
    charts.set(name, new Chart(box.querySelector("canvas"), { type: "line", data, options: options(told) }));
  }

  function show() {
    const source = document.querySelector("#chart-data script");
    const section = document.querySelector(".charts");
    if (!source || !section) return;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = `${dark}${source.textContent}`;
    if (now === drawn) return;
    drawn = now;
    const told = JSON.parse(source.textContent);
    // First, for a canvas that is hidden has no size.
    section.hidden = Object.values(told).every((each) => each.at.length === 0);
    if (section.hidden) return;
    for (const box of document.querySelectorAll("[data-chart]")) {
      if (told[box.dataset.chart]) draw(box.dataset.chart, box, told[box.dataset.chart]);
    }
  }

  document.addEventListener("agentpool:pushed", show);
  document.addEventListener("htmx:afterSettle", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
})();
