// Ticking ages, the state of the live connection, copy buttons and following a log. Pages work without it.
(() => {
  "use strict";

  const STALE_AFTER_MS = 4000;      // A shorter gap is a restart that nobody needs to read about.
  const STALLED_AFTER_MS = 35000;   // The server draws at least every 10 s, also when nothing happens.
  const RECONNECT_MS = 2000;        // The extension itself comes back only after abnormal closes.
  // Its own delay grows to 64 s: a person who watches an outage wants to see its end. The jitter
  // keeps all pages from coming back at one moment.
  htmx.config.wsReconnectDelay = (retries) => 300 + Math.random() * Math.min(5000, 500 * 2 ** retries);
  document.documentElement.classList.add("js");

  // --- ages: data-at is a moment, data-age were seconds when the page was written ----------------
  function inWords(seconds) {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} m ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  }

  function tick() {
    const now = Date.now();
    for (const time of document.querySelectorAll("time[data-age], time[data-at]")) {
      // Kept on the element, so that a clock that differs from the server's does no harm.
      if (time.began === undefined) {
        time.began = time.dataset.age === undefined
          ? Date.parse(time.dataset.at)
          : now - 1000 * Number(time.dataset.age);
      }
      const text = inWords((now - time.began) / 1000);
      if (!Number.isNaN(time.began) && time.textContent !== text) time.textContent = text;
    }
    showConnection(now);
  }

  // --- the live connection ------------------------------------------------------------------------
  let isOpen = false;
  let lastNews = Date.now();
  let closedAt = Date.now();

  function showConnection(now) {
    const state = document.getElementById("live-state");
    if (!state) return;
    const banner = document.getElementById("disconnected");
    const isGone = isOpen ? now - lastNews > STALLED_AFTER_MS : now - closedAt > STALE_AFTER_MS;
    if (isOpen && !isGone) {
      setText(state.querySelector(".live-word"), `live, ${inWords((now - lastNews) / 1000)} old`);
    } else if (isGone) {
      setText(state.querySelector(".live-word"), "not live");
      setText(document.getElementById("data-age"), inWords((now - lastNews) / 1000));
    }
    state.dataset.state = isGone ? "gone" : isOpen ? "live" : "static";
    if (banner.hidden === isGone) banner.hidden = !isGone;
    document.documentElement.classList.toggle("is-gone", isGone);
  }

  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  document.addEventListener("htmx:wsOpen", () => {
    isOpen = true;
    lastNews = Date.now();
    tick();
  });

  document.addEventListener("htmx:wsClose", (event) => {
    if (isOpen) closedAt = Date.now();
    isOpen = false;
    // (A connection that a filter replaced closes on an element that is gone: not heard here.)
    const comesBackItself = [1006, 1011, 1012, 1013].includes(event.detail.event.code);
    if (!comesBackItself) setTimeout(() => event.detail.socketWrapper.reconnect(), RECONNECT_MS);
    tick();
  });

  // --- pushes: keep the keyboard's place, and show what has changed -------------------------------
  let focusedId = "";
  document.addEventListener("htmx:wsBeforeMessage", () => {
    lastNews = Date.now();
    focusedId = document.activeElement ? document.activeElement.id : "";
  });

  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    for (const fresh of event.detail.fragment.querySelectorAll("[data-status]")) {
      const old = document.getElementById(fresh.id);
      if (old && old.dataset.status !== fresh.dataset.status) fresh.classList.add("has-changed");
    }
  });

  document.addEventListener("htmx:wsAfterMessage", () => {
    if (focusedId && document.activeElement === document.body) {
      const again = document.getElementById(focusedId);
      if (again) again.focus({ preventScroll: true });
    }
    ready();
    followLog();
  });

  // --- copy buttons, following a log --------------------------------------------------------------
  function ready() {
    if (navigator.clipboard) {
      for (const button of document.querySelectorAll("button.copy[hidden]")) button.hidden = false;
    }
    tick();
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  function followLog() {
    const log = document.getElementById("log");
    const follow = document.getElementById("follow");
    if (log && follow && follow.checked) log.scrollTop = log.scrollHeight;
  }

  document.addEventListener("htmx:afterSettle", () => { ready(); followLog(); });
  document.addEventListener("change", (event) => { if (event.target.id === "follow") followLog(); });
  // Reading further up stops the following, the end of the log starts it again.
  document.addEventListener("scroll", (event) => {
    const follow = document.getElementById("follow");
    if (!follow || event.target.id !== "log") return;
    const log = event.target;
    follow.checked = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  }, true);

  ready();
  followLog();
  setInterval(tick, 1000);
})();
