// The live connection: what the page has, how old it is, and what a push must not disturb.
(() => {
  "use strict";
  const times = window.agentpoolTimes;
  const STALE_AFTER_MS = 4000;      // A shorter gap is a restart that nobody needs to read about.
  const STALLED_AFTER_MS = 35000;   // The server sends at least every 10 s, also when nothing happens.
  const RECONNECT_MS = 2000;        // The extension itself comes back only after abnormal closes.
  const SIGNED_OUT = 4401;
  const GONE = 4404;
  const SIGNED_OUT_MS = 15000;      // Somebody may sign in again in another window.
  const WORDS = {
    [SIGNED_OUT]: ["Signed out.", "Sign in to go on.", "Sign in"],
    [GONE]: ["Gone.", "What this page was about is not kept any more.", "Reload"],
    0: ["Disconnected.", "Trying again.", "Reload"],
  };
  // Its own delay grows to 64 s: a person who watches an outage wants to see its end. The jitter
  // keeps all pages from coming back at one moment.
  htmx.config.wsReconnectDelay = (retries) => 300 + Math.random() * Math.min(5000, 500 * 2 ** retries);

  let isOpen = false;
  let lastNews = Date.now();
  let closedAt = Date.now();
  let refusal = 0;                  // the code by which the server said that it shows nothing more
  let socket = null;

  function setText(element, text) {
    if (element && element.textContent !== text) element.textContent = text;
  }

  function showConnection() {
    const state = document.getElementById("live-state");
    if (!state) return;
    const now = Date.now();
    const banner = document.getElementById("disconnected");
    const isStalled = isOpen && now - lastNews > STALLED_AFTER_MS;
    // A line that broke without a word (a machine that slept, a router) looks open for ever.
    if (isStalled && socket) { socket.close(); socket = null; }
    const isGone = refusal || isStalled || (!isOpen && now - closedAt > STALE_AFTER_MS);
    const age = times.inWords((now - lastNews) / 1000);
    if (isGone) {
      setText(state.querySelector(".live-word"), "not live");
      setText(document.getElementById("data-age"), age);
      const words = [banner.querySelector("strong"), document.getElementById("data-next"), banner.querySelector("a")];
      words.forEach((element, index) => setText(element, WORDS[refusal][index]));
    } else if (isOpen) {
      setText(state.querySelector(".live-word"), `live, ${age} old`);
    }
    state.dataset.state = isGone ? "gone" : isOpen ? "live" : "static";
    banner.hidden = !isGone;
    document.documentElement.classList.toggle("is-gone", Boolean(isGone));
  }

  // What is on the screen, so that only what differs is sent: also after a reconnect.
  function onScreen() {
    const found = document.querySelectorAll("#live [data-v]");
    return Array.from(found, (e) => [e.id, e.dataset.v, e.parentElement.closest("[data-v]")?.id ?? null]);
  }

  document.addEventListener("htmx:wsOpen", (event) => {
    socket = event.detail.event.target;
    event.detail.socketWrapper.sendImmediately(JSON.stringify({ have: onScreen() }), null);
  });

  document.addEventListener("htmx:wsClose", (event) => {
    if (isOpen) closedAt = Date.now() - lastNews > STALLED_AFTER_MS ? lastNews : Date.now();
    isOpen = false;
    // (A connection that a filter replaced closes on an element that is gone: not heard here.)
    const { event: close, socketWrapper } = event.detail;
    if (close.code in WORDS) refusal = close.code;
    const comesBackItself = [1006, 1011, 1012, 1013].includes(close.code);
    const pause = refusal === SIGNED_OUT ? SIGNED_OUT_MS : RECONNECT_MS;
    if (!comesBackItself && refusal !== GONE) setTimeout(() => socketWrapper.reconnect(), pause);
    showConnection();
  });

  // --- pushes: keep the keyboard's place and what is ticked, show what has changed -----------------
  let focusedId = "";
  document.addEventListener("htmx:wsBeforeMessage", () => {
    isOpen = true;
    refusal = 0;
    lastNews = Date.now();
    focusedId = document.activeElement ? document.activeElement.id : "";
  });

  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    for (const fresh of event.detail.fragment.querySelectorAll("input[type=checkbox][id], [data-status]")) {
      const old = document.getElementById(fresh.id);
      if (!old) continue;
      if (fresh.type === "checkbox") fresh.checked = old.checked;
      else if (old.dataset.status !== fresh.dataset.status) fresh.classList.add("has-changed");
    }
    times.localise(event.detail.fragment);
  });

  document.addEventListener("htmx:wsAfterMessage", () => {
    times.synchronise();
    if (focusedId && document.activeElement === document.body) {
      document.getElementById(focusedId)?.focus({ preventScroll: true });
    }
    ready();
    followLog();
    document.dispatchEvent(new Event("agentpool:pushed"));
  });

  // --- filters: what is typed while an answer is on its way is typed into the next page, too -----
  let typed = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    const field = document.activeElement;
    const counts = event.detail.target.id === "live" && field.id && field.matches("input:not([type=checkbox])");
    typed = counts ? { id: field.id, value: field.value, at: field.selectionStart } : null;
  });

  function typeOn() {
    const field = typed && document.getElementById(typed.id);
    if (field && field.value !== typed.value) {
      field.value = typed.value;
      field.setSelectionRange(typed.at, typed.at);
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    typed = null;
  }

  function ready() {
    if (navigator.clipboard) {
      for (const button of document.querySelectorAll("button.copy[hidden]")) button.hidden = false;
    }
    times.localise(document);
    times.tick();
    showConnection();
  }

  // --- following a log ----------------------------------------------------------------------------
  function followLog() {
    const log = document.getElementById("log");
    if (log && document.getElementById("follow")?.checked) log.scrollTop = log.scrollHeight;
  }

  document.addEventListener("change", (event) => { if (event.target.id === "follow") followLog(); });
  // Reading further up stops the following, the end of the log starts it again.
  document.addEventListener("scroll", (event) => {
    const follow = document.getElementById("follow");
    if (!follow || event.target.id !== "log") return;
    const log = event.target;
    follow.checked = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  }, true);

  document.addEventListener("htmx:afterSettle", () => { typeOn(); ready(); followLog(); });
  // On a telephone the menu is a strip: show where one is.
  document.querySelector(".menu [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  ready();
  followLog();
  setInterval(showConnection, 1000);
})();
