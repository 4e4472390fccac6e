// Times in the reader's zone, and ages that grow by the server's clock.
(() => {
  "use strict";
  document.documentElement.classList.add("js");

  let ahead = 0;   // by how many ms the server's clock is ahead of this one
  const live = document.getElementById("live");
  // Whole seconds: good enough until the first push tells the millisecond.
  if (live) ahead = 1000 * Number(live.dataset.now) - Date.now();

  const SHAPES = {
    time: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
    day: { year: "numeric", month: "short", day: "numeric" },
    both: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
    other: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  };
  const formats = Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape]) => [name, new Intl.DateTimeFormat(undefined, shape)]),
  );
  const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

  function inWords(seconds) {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} m ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  }

  function now() { return Date.now() + ahead; }

  // Hours alone are of today, and a day without a year is of this one.
  function shape(name, at) {
    const today = new Date(now());
    if (name === "day" || (name === "time" && at.toDateString() === today.toDateString())) return name;
    return at.getFullYear() === today.getFullYear() ? "both" : "other";
  }

  function localise(root) {
    for (const time of root.querySelectorAll("time[data-local]")) {
      const at = new Date(time.dateTime);
      const text = formats[shape(time.dataset.local, at)].format(at);
      if (time.textContent === text) continue;
      time.textContent = text;
      time.title = whole.format(at);
    }
  }

  function tick() {
    const at = now();
    for (const time of document.querySelectorAll("time[data-age], time[data-until]")) {
      time.began ??= Date.parse(time.dateTime);
      const passed = (at - time.began) / 1000;
      const left = time.dataset.until !== undefined;
      const text = left ? (passed < 0 ? `in ${inWords(-passed)}` : "now") : inWords(passed);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function synchronise() {
    const clock = document.getElementById("clock");
    if (clock && clock.value) ahead = Number(clock.value) - Date.now();
  }

  window.agentpoolTimes = { inWords, localise, now, synchronise, tick, formats };
  localise(document);
  tick();
  setInterval(tick, 1000);
})();
