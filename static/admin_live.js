/*
 * Keeps an open list or the dashboard of the admin as new as the pool: follows the event stream by
 * long polling, and fetches the page again when events of its kinds come, at most once a second.
 *
 * A list with ticked rows is left alone until they are unticked. Nothing old is shown as new: when
 * the stream is away, the page says since when.
 */
"use strict";

(() => {
  const EVENTS = "/api/agent-pool/events";
  const WAIT_S = 25;
  const LIMIT = 100;
  const AT_MOST_EVERY_MS = 1000;
  const AGES_EVERY_MS = 10000;
  const AWAY_MS = [500, 1000, 2000, 5000];
  const COLOURS = { live: "#16a34a", paused: "#d97706", away: "#dc2626", out: "#dc2626" };

  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  const clock = (at) => at.toLocaleTimeString();

  // -- the state line ----------------------------------------------------------------------------

  function say(page, state) {
    const line = document.getElementById("live-state");
    const words = {
      live: "Live",
      paused: `Paused while rows are ticked: shown as of ${clock(page.at)}. There is news.`,
      away: `No connection: shown as of ${clock(page.at)}`,
      out: "You are signed out: load the page again.",
    }[state];
    if (line.dataset.state !== state) line.dataset.state = state;
    const text = line.querySelector("[data-words]");
    if (text.textContent !== words) text.textContent = words;
    line.querySelector(".live-dot").style.background = COLOURS[state];
    line.querySelector("[data-show]").classList.toggle("hidden", state !== "paused");
  }

  // -- times -------------------------------------------------------------------------------------

  function localTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (time.hasAttribute("data-local")) time.textContent = at.toLocaleString();
      time.title = at.toLocaleString();
    }
  }

  // -- lists -------------------------------------------------------------------------------------

  const ticked = () => document.querySelectorAll("#result_list .action-select:checked");

  const holder = (root) =>
    root.querySelector("#result_list")?.closest("[data-simplebar]") ??
    root.querySelector("#empty-list");

  function replaceInside(fresh, selector) {
    const [old, next] = [document, fresh].map((root) => root.querySelector(selector));
    if (!old || !next) return;
    old.innerHTML = next.innerHTML;
    Object.assign(old.dataset, next.dataset);
  }

  function showList(fresh) {
    const [oldTable, table] = [document, fresh].map((root) => root.querySelector("#result_list"));
    if (oldTable && table) {
      const focused = oldTable.contains(document.activeElement) && document.activeElement.href;
      for (const body of [...oldTable.tBodies]) body.remove();
      oldTable.append(...[...table.tBodies].map((body) => document.adoptNode(body)));
      if (focused) [...oldTable.querySelectorAll("a")].find((a) => a.href === focused)?.focus();
    } else {
      const [before, after] = [holder(document), holder(fresh)];
      if (before && after) {
        before.replaceWith(document.adoptNode(after));
        if (table && window.SimpleBar) new window.SimpleBar(after);
      }
    }
    replaceInside(fresh, "#live-pagination");
    replaceInside(fresh, ".action-counter");
    bindWhenTouched();
  }

  // unfold's script binds the checkboxes that it finds and keeps them for ever; bound anew after
  // each fetch, they would pile up. So it is called once somebody is about to use them.
  let isBound = true;
  function bindWhenTouched() {
    const form = document.getElementById("changelist-form");
    if (!form || !isBound) return;
    isBound = false;
    const bind = () => {
      isBound = true;
      const parent = document.querySelector(".result-list-wrapper");
      const boxes = parent.querySelectorAll(".action-select");
      if (boxes.length && window.Actions) window.Actions(boxes, { parent });
    };
    form.addEventListener("click", bind, { capture: true, once: true });
  }

  // -- the dashboard -----------------------------------------------------------------------------

  function showParts(fresh) {
    for (const part of document.querySelectorAll("[data-live-part]")) {
      const next = fresh.getElementById(part.id);
      if (next && next.innerHTML !== part.innerHTML) part.innerHTML = next.innerHTML;
    }
    for (const canvas of document.querySelectorAll("[data-live-chart]")) {
      const next = fresh.querySelector(`[data-live-chart="${canvas.dataset.liveChart}"]`);
      if (!next || next.dataset.value === canvas.dataset.value) continue;
      canvas.dataset.value = next.dataset.value;
      canvas.setAttribute("aria-label", next.getAttribute("aria-label"));
      draw(canvas);
    }
  }

  function draw(canvas) {
    const style = getComputedStyle(document.documentElement);
    const colour = (value) =>
      value.startsWith("var(") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    const data = JSON.parse(canvas.dataset.value);
    const minute = { hour: "2-digit", minute: "2-digit" };
    data.labels = data.labels.map((s) => new Date(1000 * s).toLocaleTimeString([], minute));
    for (const line of data.datasets) {
      line.borderColor = line.backgroundColor = colour(line.borderColor);
    }
    const old = window.Chart.getChart(canvas);
    if (old) {
      old.data = data;
      old.update("none");
      return;
    }
    const isDark = document.documentElement.classList.contains("dark");
    const ink = style.getPropertyValue(isDark ? "--color-base-300" : "--color-base-600").trim();
    const grid = style.getPropertyValue(isDark ? "--color-base-700" : "--color-base-200").trim();
    new window.Chart(canvas, {
      type: "line",
      data,
      options: {
        animation: false,
        maintainAspectRatio: false,
        interaction: { mode: "index", intersect: false },
        plugins: {
          legend: { position: "bottom", align: "start", labels: { color: ink, boxHeight: 0, boxWidth: 28 } },
        },
        scales: {
          x: { ticks: { color: ink, maxTicksLimit: 6, maxRotation: 0 }, grid: { display: false } },
          y: { beginAtZero: true, suggestedMax: canvas.dataset.liveChart === "use" ? 100 : undefined,
               ticks: { color: ink, maxTicksLimit: 6 }, grid: { color: grid } },
        },
      },
    });
  }

  // -- following ---------------------------------------------------------------------------------

  async function refresh(page) {
    if (page.isList && ticked().length) {
      page.hasNews = true;
      return say(page, "paused");
    }
    const at = new Date();
    const answer = await fetch(location.href, { headers: { "X-Requested-With": "fetch" } });
    if (answer.redirected && new URL(answer.url).pathname !== location.pathname) {
      page.isOver = true;
      return say(page, "out");
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (page.isList && ticked().length) {
      page.hasNews = true; // somebody ticked a row while it was fetched
      return say(page, "paused");
    }
    if (page.isList) showList(fresh);
    else showParts(fresh);
    localTimes(document);
    page.at = at;
    page.hasNews = false;
    say(page, "live");
  }

  async function ask(page) {
    const query = new URLSearchParams({ after: page.after, limit: LIMIT });
    // After a failure it asks at once, to know soon that all is well again.
    if (page.waits && !page.failures) query.set("wait", WAIT_S);
    const answer = await fetch(`${EVENTS}?${query}`);
    if (answer.status === 401 || answer.status === 403) {
      page.isOver = true;
      say(page, "out");
      return false;
    }
    if (answer.status === 400 && page.waits) {
      page.waits = false; // a server on which nothing waits: ask again and again instead
      return false;
    }
    if (answer.status === 410) return jump(page);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const news = await answer.json();
    page.after = news.next;
    if (news.events.length >= LIMIT) return jump(page);
    return news.events.some(
      (event) => !page.kinds.length || page.kinds.some((kind) => event.kind.startsWith(kind)),
    );
  }

  // So much has happened that following it one by one is pointless: go on from the newest.
  async function jump(page) {
    const answer = await fetch(EVENTS);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    page.after = (await answer.json()).next;
    return true;
  }

  const untilVisible = () =>
    new Promise((done) => {
      if (!document.hidden) return done();
      document.addEventListener("visibilitychange", () => done(), { once: true });
    });

  async function follow(page) {
    while (!page.isOver) {
      await untilVisible();
      try {
        const isConcerned = await ask(page);
        if (page.isOver) return;
        const began = performance.now();
        if (isConcerned || page.failures) await refresh(page);
        page.failures = 0;
        // A busy server is asked less often: the page takes at most a quarter of its time.
        const took = performance.now() - began;
        const rest = Math.max(AT_MOST_EVERY_MS - took, 3 * took);
        if (isConcerned || !page.waits) await sleep(rest);
      } catch {
        say(page, "away");
        await sleep(AWAY_MS[Math.min(page.failures++, AWAY_MS.length - 1)]);
      }
    }
  }

  function start(root) {
    const page = {
      isList: root.hasAttribute("data-live-list"),
      kinds: (root.dataset.liveKinds ?? "").split(" ").filter(Boolean),
      after: Number(root.dataset.liveAfter),
      at: new Date(),
      waits: true,
      failures: 0,
      hasNews: false,
      isOver: false,
    };
    say(page, "live");
    follow(page);
    // Ages grow without any event.
    setInterval(() => {
      const isOld = Date.now() - page.at > AGES_EVERY_MS;
      const isShown = document.getElementById("live-state").dataset.state === "live";
      if (isOld && isShown && !document.hidden && !ticked().length) refresh(page).catch(() => say(page, "away"));
    }, AGES_EVERY_MS / 2);
    document.addEventListener("change", () => {
      if (page.hasNews && !ticked().length) refresh(page).catch(() => say(page, "away"));
    });
    document.querySelector("#live-state [data-show]").addEventListener("click", () => {
      for (const box of ticked()) box.checked = false;
      refresh(page).catch(() => say(page, "away"));
    });
  }

  function begin() {
    localTimes(document);
    for (const canvas of document.querySelectorAll("[data-live-chart]")) draw(canvas);
    const root = document.querySelector("[data-live]");
    if (root) start(root);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
