// Chart.js charts; what they draw stands in the page as JSON and changes with it.
(() => {
  "use strict";
  const charts = new Map();
  let drawn = "";

  const TONES = ["busy", "draining", "idle", "starting", "lost", "standby"];
  // Lines are told apart by their dashes, too, and outcomes by the shapes of their points.
  const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [1, 4]];
  const POINTS = { success: "circle", failure: "crossRot", timeout: "triangle", lost: "triangle", cancelled: "rect" };

  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10_080, 43_200]; // minutes

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const points = (at, values) => values.map((y, index) => ({ x: Date.parse(at[index]), y }));

  // What is known at usual distances is joined; over hours without a word there is no line. (A
  // number as spanGaps would end a line at each moment of which nothing is known.)
  // Returns which moments lie in such a gap or end it, and the sizes of points: one that no line
  // leads to or from is seen as a dot.
  function gaps(at, values) {
    const steps = at.slice(1).map((each, index) => Date.parse(each) - Date.parse(at[index])).sort((a, b) => a - b);
    const longest = 4 * (steps[Math.floor(steps.length / 2)] || 0) || Infinity;
    const known = values.flatMap((value, index) => (value === null ? [] : [index]));
    const isFar = (a, b) => a === undefined || b === undefined || Date.parse(at[b]) - Date.parse(at[a]) > longest;
    const lies = values.map(() => false);
    const radii = values.map(() => 0);
    known.forEach((index, place) => {
      const [before, after] = [known[place - 1], known[place + 1]];
      if (isFar(before, index)) lies.fill(true, (before ?? -1) + 1, index + 1);
      if (isFar(before, index) && isFar(index, after)) radii[index] = 3;
    });
    return { lies, radii };
  }

  // At most six round times of the reader's clock.
  function ticks(scale) {
    const minute = 60_000;
    const span = scale.max - scale.min;
    const step = minute * (STEPS.find((each) => span / (each * minute) <= 5) ?? STEPS.at(-1));
    const zone = new Date(scale.min).getTimezoneOffset() * minute;
    const first = Math.ceil((scale.min - zone) / step) * step + zone;
    const found = [];
    for (let value = first; value <= scale.max; value += step) found.push({ value });
    scale.ticks = found.length ? found : [{ value: scale.min }];
  }

  // Beyond two days the time alone says too little.
  function moment(told) {
    const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    const days = Date.parse(told.at.at(-1)) - Date.parse(told.at[0]) > 2 * 86_400_000;
    const form = days ? { month: "short", day: "numeric", ...clock } : clock;
    return (x) => new Date(x).toLocaleString(undefined, form);
  }

  function dataset(line, index, told) {
    const tone = colour(line.tone || TONES[index % TONES.length]);
    const { lies, radii } = gaps(told.at, line.values);
    const unlessFar = (segment) => (lies[segment.p1DataIndex] ? "transparent" : undefined);
    const found = {
      label: line.label,
      data: told.labels ? line.values : points(told.at, line.values),
      borderColor: tone,
      // The colours are six digits; two more make them transparent.
      backgroundColor: told.stacks ? `${tone}40` : tone,
      borderDash: DASHES[index % DASHES.length],
      borderWidth: 2,
      fill: told.stacks && (index ? "-1" : "origin"),
      pointRadius: told.labels ? (line.values.length === 1 ? 3 : 0) : radii,
      spanGaps: true,
      segment: told.labels ? {} : { borderColor: unlessFar, backgroundColor: unlessFar },
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
    const when = moment(told);
    const plain = { ...axis, ticks: { ...axis.ticks, maxRotation: 0 }, grid: { display: false } };
    // Of one moment alone the axis would go over years.
    const [first, last] = [Date.parse(told.at[0]), Date.parse(told.at.at(-1))];
    const around = first === last ? { min: first - 150_000, max: last + 150_000 } : {};
    const twoAxes = told.lines.some((line) => line.axis === "right");
    // With two axes, each says whose it is; on a telephone, where the words would run into the
    // legend, only the line below the chart does.
    const whose = (isRight) => ({
      display: twoAxes && innerWidth > 600,
      color: text,
      text: told.lines.filter((line) => (line.axis === "right") === isRight).map((line) => line.label).join(", "),
    });
    const right = { ...axis, position: "right", beginAtZero: true, grid: { display: false }, title: whose(true) };
    return {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: told.labels ? plain : { ...plain, ...around, type: "linear", bounds: "data", afterBuildTicks: ticks, ticks: { ...plain.ticks, callback: when } },
        y: { ...axis, beginAtZero: true, stacked: told.stacks, max: told.most ?? undefined, title: whose(false) },
        ...(twoAxes ? { right } : {}),
      },
      plugins: {
        legend: { labels: { color: text, boxWidth: 18, boxHeight: 1 }, align: "start" },
        tooltip: { callbacks: { title: (items) => (told.labels ? items[0].label : when(items[0].parsed.x)), afterTitle: (items) => told.notes[items[0].dataIndex] } },
      },
    };
  }

  function draw(name, box, told) {
    const datasets = told.lines.map((line, index) => dataset(line, index, told));
    const data = { labels: told.labels, datasets };
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
