// Chart.js charts whose data stand in the page and change with it.
(() => {
  "use strict";
  const charts = new Map();
  let drawn = "";

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const POINTS = { success: "circle", failure: "crossRot", timeout: "triangle", lost: "triangle", cancelled: "rect" };

  function line(label, data, name, more = {}) {
    const c = colour(name);
    return { label, data, borderColor: c, backgroundColor: c, borderWidth: 2, pointRadius: data.length === 1 ? 3 : 0, tension: 0, ...more };
  }

  function datasets(kind, told) {
    if (kind === "memory") {
      return [
        line("granted", told.memory_mb, "--standby", { borderDash: [5, 4], stepped: true }),
        line("most used", told.peak_memory_mb, "--busy"),
      ];
    }
    if (kind === "tokens") {
      return [
        line("granted", told.token_budget, "--standby", { borderDash: [5, 4], stepped: true }),
        line("used", told.tokens, "--busy"),
      ];
    }
    const shapes = told.outcomes.map((outcome) => POINTS[outcome] ?? "circle");
    return [
      line("duration", told.duration_s, "--busy", { pointStyle: shapes, pointRadius: 4 }),
      line("wait", told.waited_s, "--draining", { borderDash: [2, 3] }),
    ];
  }

  function options(told) {
    const text = colour("--muted");
    const grid = colour("--line");
    const axis = { ticks: { color: text, maxTicksLimit: 5 }, grid: { color: grid }, border: { display: false } };
    return {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: { x: { ...axis, ticks: { ...axis.ticks, maxRotation: 0 }, grid: { display: false } }, y: { ...axis, beginAtZero: true } },
      plugins: {
        legend: { labels: { color: text, boxWidth: 18, boxHeight: 1 }, align: "start" },
        tooltip: { callbacks: { afterTitle: (items) => told.outcomes[items[0].dataIndex] } },
      },
    };
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
    section.hidden = told.labels.length === 0;
    const labels = told.labels.map((at) => new Date(at).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }));
    for (const box of document.querySelectorAll("[data-chart]")) {
      const kind = box.dataset.chart;
      const data = { labels, datasets: datasets(kind, told) };
      let chart = charts.get(kind);
      if (chart && chart.canvas.isConnected) {
        Object.assign(chart, { data, options: options(told) });
        chart.update("none");
        continue;
      }
      chart?.destroy();
      charts.set(kind, new Chart(box.querySelector("canvas"), { type: "line", data, options: options(told) }));
    }
  }

  document.addEventListener("agentpool:pushed", show);
  document.addEventListener("htmx:afterSettle", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
})();
