// Dialogs, selections, keys and copy buttons. Every action works without it: as a page of its own.
(() => {
  "use strict";
  const times = window.agentpoolTimes;
  const byId = (id) => document.getElementById(id);

  // --- the dialog: a link or button that leads to an action opens it here ---------------------------
  // One listener for all: a long list would else bear hundreds.
  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const link = event.target.closest('a[href^="/do"]');
    const button = event.target.closest('button[formaction^="/do"]');
    if (!link && !button) return;
    event.preventDefault();
    if (link) {
      htmx.ajax("GET", link.getAttribute("href"), { target: "#dialog-body" });
      return;
    }
    // The rows go in the body: an address with a thousand of them is longer than servers take.
    const form = new FormData(button.form);
    const values = Object.fromEntries(Array.from(form.keys(), (name) => [name, form.getAll(name)]));
    values.ask = "1";
    values.csrfmiddlewaretoken = document.querySelector("[name=csrfmiddlewaretoken]").value;
    htmx.ajax("POST", button.getAttribute("formaction"), { target: "#dialog-body", values });
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "dialog-body") return;
    const dialog = byId("dialog");
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    times.localise(dialog);
    tellMinutes(dialog);
    const trial = dialog.querySelector("#trial");
    if (trial) {
      trial.scrollIntoView({ block: "nearest" });
      dialog.querySelector("#try-it").focus();
      return;
    }
    dialog.querySelector("[autofocus], .field input, .field select, .choices button, a.button")?.focus();
  });

  // What is not answered as asked (signed out, a page too old, no connection) must not look like a
  // button that does nothing.
  for (const name of ["htmx:responseError", "htmx:sendError"]) {
    document.addEventListener(name, (event) => {
      const code = event.detail.xhr?.status;
      const note = document.createElement("p");
      note.className = "note is-bad";
      note.setAttribute("role", "alert");
      note.textContent = code
        ? `Not done: the server answered ${code}. Load the page again, then try once more.`
        : "Not done: the server cannot be reached. Try again when the page is live.";
      const where = byId("dialog").open ? byId("dialog-body") : byId("messages");
      where.querySelector("[data-unanswered]")?.remove();
      note.dataset.unanswered = "";
      where.prepend(note);
    });
  }

  document.addEventListener("agentpool:done", () => {
    byId("dialog").close();
    selectNone();
  });

  document.addEventListener("click", async (event) => {
    const target = event.target;
    if (target.closest("[data-close]") && byId("dialog")?.open) {
      event.preventDefault();
      byId("dialog").close();
    }
    target.closest("[data-dismiss]")?.closest(".result").remove();
    if (target.closest("#show-keys")) byId("keys").showModal();
    const copy = target.closest("button.copy");
    if (copy) {
      await navigator.clipboard.writeText(byId(copy.dataset.copy).textContent);
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    }
  });

  // A secret leaves the page with the dialog.
  byId("dialog")?.addEventListener("close", () => { byId("dialog-body").replaceChildren(); });

  // --- "in 15 min": tell the moment in the reader's zone --------------------------------------------
  function tellMinutes(root) {
    for (const select of root.querySelectorAll("select[data-minutes]")) {
      const told = select.parentElement.querySelector("[data-minutes-told]");
      const at = new Date(times.now() + 60000 * Number(select.value));
      const shape = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
      told.textContent = select.value ? `${at.toLocaleTimeString(undefined, shape)} your time` : "";
    }
  }
  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-minutes]")) tellMinutes(document);
    if (event.target.id === "pick-all") {
      for (const box of boxes()) box.checked = event.target.checked;
    }
    countPicked();
  });

  // --- selections -------------------------------------------------------------------------------------
  const boxes = () => document.querySelectorAll("#bulk input[type=checkbox][name]");

  function countPicked() {
    const bar = byId("bulk-bar");
    if (!bar) return;
    const count = Array.from(boxes()).filter((box) => box.checked).length;
    bar.classList.toggle("is-on", count > 0);
    const text = `${count} selected`;
    if (byId("bulk-count").textContent !== text) byId("bulk-count").textContent = text;
  }

  function selectNone() {
    for (const box of boxes()) box.checked = false;
    if (byId("pick-all")) byId("pick-all").checked = false;
    countPicked();
  }
  document.addEventListener("click", (event) => { if (event.target.id === "bulk-none") selectNone(); });
  document.addEventListener("agentpool:pushed", countPicked);
  document.addEventListener("htmx:afterSettle", countPicked);

  // --- keys ---------------------------------------------------------------------------------------------
  const PLACES = {
    o: "overview", a: "agents", q: "queue", l: "leases", c: "cycles", d: "decisions", r: "resources", s: "settings",
    z: "scaling", m: "metrics", b: "rebalancing", i: "optimizer", e: "learning",
  };
  let wasG = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea") || document.querySelector("dialog[open]")) return;
    const key = event.key;
    if (Date.now() - wasG < 1200 && PLACES[key]) {
      document.querySelector(`.menu a use[href="#icon-${PLACES[key]}"]`)?.closest("a").click();
    } else if (key === "/") {
      const search = document.querySelector("[data-search]");
      if (search) { event.preventDefault(); search.focus(); search.select(); }
    } else if (key === "?") {
      byId("keys")?.showModal();
    } else if (key === "x") {
      document.activeElement.closest("[data-row]")?.querySelector("input[type=checkbox]")?.click();
    }
    wasG = key === "g" ? Date.now() : 0;
  });

  countPicked();
})();
