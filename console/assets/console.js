// What this adds to the pages: the steps of something that is done to many events go on by themselves, and are
// seen to. Without it the same forms and links do each step by hand.
"use strict";

// A notice is told once: it stays on the page, but not in the address, which is reloaded and kept.
(() => {
  const here = new URL(location.href);
  if (!here.searchParams.has("notice")) return;
  here.searchParams.delete("notice");
  history.replaceState(history.state, "", here);
})();

(() => {
  const number = new Intl.NumberFormat("en");
  const counted = document.getElementById("count");
  const bar = document.getElementById("bar");
  const status = document.getElementById("status");
  const form = document.getElementById("steps");
  if (!form) return;

  // sentence ends what says something.
  const sentence = (text) => (/[.!?]$/.test(text) ? text : text + ".");

  // ask makes a request and returns its answer; an answer that is a problem is thrown.
  async function ask(address, options) {
    const response = await fetch(address, { ...options, headers: { Accept: "application/json" }, redirect: "error" });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error([answer.title || "The answer was " + response.status, answer.detail].filter(Boolean).map(sentence).join(" "));
    return answer;
  }

  const strong = (text, rest) => {
    const node = document.createElement("strong");
    node.textContent = text;
    counted.replaceChildren(node, rest);
  };

  // Counting goes on until all that would be done is known.
  async function count(next) {
    const button = form.querySelector("button");
    button.disabled = true;
    status.textContent = "Counting …";
    try {
      let total = 0;
      while (next) {
        const answer = await ask(next);
        total = answer.counted;
        next = answer.next;
        strong(number.format(total), (next ? " so far" : total === 1 ? " event" : " events") + " would be " + form.dataset.doing);
        if (!next) {
          field("counted", total);
          field("before", answer.before);
        }
      }
      const on = document.getElementById("count-on");
      if (on) on.remove();
      button.textContent = form.dataset.does + " " + number.format(total) + (total === 1 ? " event" : " events");
      status.textContent = "";
    } catch (problem) {
      status.textContent = sentence(problem.message) + " The number above is what was counted so far.";
    }
    button.disabled = false;
  }

  // field sets what the form carries.
  function field(name, value) {
    let input = form.elements.namedItem(name);
    if (!input) {
      input = document.createElement("input");
      input.type = "hidden";
      input.name = name;
      form.append(input);
    }
    input.value = value;
  }

  // Steps are made one after the other, until there are no more or somebody stops them.
  async function run() {
    const button = form.querySelector("button");
    const leave = document.getElementById("leave");
    const total = Number(new FormData(form).get("counted") || 0);
    let stopped = false;
    const stop = document.createElement("button");
    stop.type = "button";
    stop.textContent = "Stop";
    stop.addEventListener("click", () => { stopped = true; stop.disabled = true; });
    button.hidden = true;
    if (leave) leave.hidden = true;
    form.append(stop);
    stop.focus();
    bar.hidden = false;
    if (total) bar.max = total;
    field("limit", form.dataset.step);

    // What was skipped was looked at too: a receiver that takes nothing must not make the bar stand still.
    const began = performance.now();
    const sent = new FormData(form);
    const before = Number(sent.get("done") || 0) + Number(sent.get("missed") || 0);
    let told = 0;
    try {
      for (;;) {
        const answer = await ask(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
        const seen = answer.done + answer.missed;
        const goal = Math.max(total, seen);
        strong(number.format(answer.done), (total ? " of " + number.format(goal) : "") + " " + form.dataset.doing
          + (answer.missed ? ", " + number.format(answer.missed) + " skipped" : ""));
        if (total) {
          bar.max = goal;
          bar.value = seen;
        }
        // A screen reader is told now and then, and not of every step.
        const now = performance.now();
        if (total && answer.more && now - told > 3000) {
          const left = (goal - seen) * (now - began) / Math.max(seen - before, 1) / 1000;
          status.textContent = Math.floor(100 * seen / goal) + " %, about " + (left < 90 ? Math.ceil(left) + " s" : Math.ceil(left / 60) + " min") + " left";
          told = now;
        }
        for (const [name, value] of Object.entries(answer.fields)) field(name, value);
        if (!answer.more) {
          bar.max = 1;
          bar.value = 1;
          const query = new URLSearchParams(Object.entries(answer.fields));
          location.replace(form.action + "?" + query);
          return;
        }
        if (stopped) break;
      }
      status.textContent = "Stopped. What is done stays done; the rest is unchanged.";
    } catch (problem) {
      status.textContent = sentence(problem.message) + " What is done stays done; the failed step can be repeated.";
    }
    stop.remove();
    button.textContent = "Continue";
    button.hidden = false;
    if (leave) leave.hidden = false;
    button.focus();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  if (counted.dataset.count) count(counted.dataset.count);
})();
