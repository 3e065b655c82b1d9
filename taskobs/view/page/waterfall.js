"use strict";
// Draws traces, events and log lines; the pages beside it say where they come from.
// Everything is built with textContent: what a task is called can't become markup.
const GLYPHS = { succeeded: "✓", failed: "✗", lost: "✗", unknown: "✗", retried: "↻" };
const LEGEND = [
  ["other", "your own span"], ["publish", "publish"], ["succeeded", "run, succeeded"],
  ["retried", "retried"], ["failed", "failed"], ["quiet", "in the queue"],
];
const MOST_ROWS = 1000; // of one trace that are drawn at once
const page = { rows: new Map(), traces: [], issues: [], chosen: "" }; // rows: span id -> {span, trace, button}

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function button(className, text, action) {
  const element = make("button", className, text);
  element.type = "button";
  element.addEventListener("click", action);
  return element;
}

function took(seconds) {
  if (seconds < 0.001) return (seconds * 1000).toFixed(1) + " ms";
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  return seconds.toFixed(2) + " s";
}

function many(number, noun) {
  return number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");
}

function toneOf(outcome) {
  if (["failed", "lost", "unknown"].includes(outcome)) return "tone-failed";
  return { succeeded: "tone-succeeded", retried: "tone-retried" }[outcome] || "tone-quiet";
}

function tone(span) {
  if (toneOf(span.outcome) === "tone-failed") return "tone-failed";
  if (span.role === "publish") return "tone-publish";
  if (span.role === "other") return "tone-other";
  return toneOf(span.outcome);
}

function marked(outcome) {
  return (GLYPHS[outcome] || "–") + " " + outcome;
}

function step(seconds) {
  const rough = Math.max(seconds, 1e-6) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= rough);
}

function jump(spanId, text) {
  if (!page.rows.has(spanId)) return make("span", "", text);
  return button("to", text, () => choose(spanId, true));
}

function pairs(entries) {
  const list = make("dl", "pairs");
  for (const [key, value] of entries) {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    const name = make("dt", "");
    for (const part of key.split(/(?<=[._])/)) name.append(part, make("wbr")); // break lines there
    list.append(name, make("dd", "", text));
  }
  return list;
}

function drawLegend() {
  for (const [name, text] of LEGEND) {
    document.getElementById("legend").append(make("li", "tone-" + name, make("i", "swatch"), text));
  }
}

function drawRow(trace, span, total) {
  const [verb, ...rest] = span.role === "other" ? ["", span.name] : span.name.split(" ");
  const label = make("span", "label");
  for (let depth = 0; depth < Math.min(span.depth, 20); depth++) label.append(make("i", "guide"));
  const name = make("span", "name", verb && make("span", "verb", verb), make("b", "", rest.join(" ")));
  name.title = span.name;
  label.append(make("i", "dot"), name);

  const time = make("span", "time");
  time.style.setProperty("--step", (100 * step(total)) / total + "%");
  const percent = (seconds) => (100 * seconds) / total + "%";
  if (span.queue_latency) {
    const wait = Math.min(span.queue_latency, span.start);
    const queue = make("i", "queue");
    queue.style.left = percent(span.start - wait);
    queue.style.width = percent(wait);
    time.append(queue);
  }
  const bar = make("i", "bar");
  bar.style.left = percent(span.start);
  bar.style.width = percent(span.seconds);
  const notable = span.outcome && span.outcome !== "succeeded";
  const word = notable ? make("b", "", marked(span.outcome)) : "";
  // To the right of the bar; where that would leave the card, to its left, or inside it.
  const begins = span.start - Math.min(span.queue_latency || 0, span.start);
  const ends = span.start + span.seconds;
  const side = !notable || ends <= 0.85 * total ? "after" : begins > 0.4 * total ? "before" : span.seconds > 0.3 * total ? "inside" : "after";
  const end = make("span", "took " + side, took(span.seconds), word);
  end.style.left = {
    before: percent(begins),
    inside: percent(ends),
    after: "max(" + percent(ends) + ", calc(" + percent(span.start) + " + 3px))",
  }[side];
  time.append(bar, end);

  const row = button("row " + span.role + " " + tone(span), "", () => choose(span.span_id, false));
  row.append(label, time);
  row.setAttribute("aria-pressed", "false");
  row.setAttribute("aria-label", [span.name, span.outcome, took(span.seconds)].filter(Boolean).join(", "));
  page.rows.set(span.span_id, { span, trace, button: row });
  return row;
}

function drawRows(trace, total) {
  const list = make("div", "rows");
  let drawn = 0;
  const more = button("more", "", () => draw());
  const draw = () => {
    const next = trace.spans.slice(drawn, drawn + MOST_ROWS);
    more.remove();
    list.append(...next.map((span) => drawRow(trace, span, total)));
    drawn += next.length;
    if (drawn < trace.spans.length) {
      more.textContent = "Show " + many(trace.spans.length - drawn, "more span");
      list.append(more);
    }
  };
  draw();
  return list;
}

function drawScale(total) {
  const ticks = make("div", "ticks");
  const every = step(total);
  for (let at = 0; at <= total * 1.0001; at += every) {
    const tick = make("span", "", at === 0 ? "0" : every < 1 && total < 1 ? Math.round(at * 1000) + " ms" : +at.toFixed(2) + " s");
    tick.style.left = (100 * at) / total + "%";
    ticks.append(tick);
  }
  const scale = make("div", "scale", make("span"), ticks);
  scale.setAttribute("aria-hidden", "true");
  return scale;
}

function drawTrace(trace) {
  const total = Math.max(trace.seconds, 1e-6);
  const runs = trace.spans.filter((span) => span.role === "run").length;
  const failed = trace.failures ? make("span", "bad", trace.failures + " failed") : "";
  const head = make(
    "header", "",
    make("h2", "", trace.title),
    make("span", "facts", took(trace.seconds) + " · " + many(trace.spans.length, "span") + " · " + many(runs, "run")),
    failed,
    make("span", "id", trace.trace_id),
  );
  return make("section", "card trace", head, drawScale(total), drawRows(trace, total));
}

function drawFrame(frame) {
  const where = frame.file + (frame.line === null ? "" : ":" + frame.line);
  const head = [make("b", "", frame.function || "?"), " ", make("span", "id", where)];
  const className = frame.in_app ? "frame" : "frame library";
  if (!frame.code.length) return make("div", className, ...head);
  const code = make("pre", "code");
  for (const [number, text] of frame.code) {
    code.append(make("span", number === frame.line ? "line here" : "line", String(number).padStart(5) + "  " + text));
  }
  return make("details", className, make("summary", "", ...head), code);
}

function drawRaised(raised) {
  const box = make("div", "raised", make("div", "", make("span", "title", raised.kind), make("span", "message", raised.message)));
  const frames = [...raised.frames].reverse().map(drawFrame); // the innermost call first
  const own = frames.find((frame) => !frame.classList.contains("library") && frame.tagName === "DETAILS");
  if (own) own.open = true;
  if (frames.length) box.append(make("div", "frames", ...frames));
  return box;
}

function drawIssue(issue) {
  const tags = make("ul", "tags");
  for (const [key, value] of issue.tags) tags.append(make("li", "", make("span", "", key), make("span", "", value)));
  const raised = [...issue.exceptions].reverse().map(drawRaised);
  for (const one of raised.slice(1)) one.prepend(make("h3", "", "Raised before"));
  if (!raised.length) raised.push(make("div", "", make("span", "title", issue.title), make("span", "message", issue.message)));
  return make(
    "section", "issue",
    make("h3", "", "The Sentry issue"),
    ...raised,
    tags,
    make("div", "id", "event " + issue.event_id + " · trace " + issue.trace_id + " · ", jump(issue.span_id, "span " + issue.span_id)),
  );
}

function drawText(line) {
  const text = make("pre");
  // Only ids that are spans or traces of this page become jumps.
  for (const piece of line.split(/\b([0-9a-f]{32}|[0-9a-f]{16})\b/)) {
    const trace = page.traces.find((candidate) => candidate.trace_id === piece);
    if (page.rows.has(piece)) text.append(jump(piece, piece));
    else if (trace) text.append(jump(trace.spans[0].span_id, piece));
    else text.append(piece);
  }
  return text;
}

function drawLinks(span) {
  const list = make("ul", "plain");
  for (const link of span.links) {
    const target = page.rows.get(link.span_id);
    const text = target ? target.span.name : "span " + link.span_id;
    list.append(make("li", "", jump(link.span_id, text), " ", make("small", "", link.kind)));
  }
  return list;
}

function drawException(moment) {
  const fields = Object.fromEntries(moment.attributes);
  const box = make(
    "div", "exception",
    make("strong", "", fields["exception.type"] || "exception"), " ", fields["exception.message"] || "",
  );
  if (fields["exception.stacktrace"]) {
    box.append(make("details", "", make("summary", "", "Stack trace"), make("pre", "", fields["exception.stacktrace"])));
  }
  return box;
}

function drawDetail({ span, trace }) {
  const parts = [make("h2", "", span.name)];
  if (span.outcome) parts.push(make("span", "pill " + tone(span), marked(span.outcome)));
  if (span.note) parts.push(make("span", "facts", span.note));
  parts.push(make("h3", "", "Time"), pairs([
    ["starts at", "+" + took(span.start)],
    ["takes", took(span.seconds)],
    ...(span.queue_latency === null ? [] : [["in the queue", took(span.queue_latency)]]),
    ["service", span.service], ["kind", span.kind],
    ["span", span.span_id], ["trace", trace.trace_id],
  ]));
  for (const moment of span.events) {
    parts.push(make("h3", "", moment.name));
    parts.push(moment.name === "exception" ? drawException(moment) : pairs(moment.attributes));
  }
  for (const issue of page.issues.filter((candidate) => candidate.span_id === span.span_id)) {
    parts.push(make("h3", "", "Sentry"), make("div", "", issue.title + " · event ", make("span", "id", issue.event_id)));
  }
  if (span.links.length) parts.push(make("h3", "", "Links"), drawLinks(span));
  parts.push(make("h3", "", "Attributes"), pairs(span.attributes));
  return parts;
}

function choose(spanId, scroll) {
  const row = page.rows.get(spanId);
  if (!row) return;
  for (const other of page.rows.values()) other.button.setAttribute("aria-pressed", "false");
  row.button.setAttribute("aria-pressed", "true");
  const panel = document.getElementById("detail");
  panel.replaceChildren(...drawDetail(row));
  if (page.chosen !== spanId) panel.scrollTop = 0;
  page.chosen = spanId;
  if (scroll) {
    row.button.scrollIntoView({ block: "start" });
    row.button.focus({ preventScroll: true });
  }
}

function worstOf(spans) {
  return spans.find((span) => span.role === "run" && toneOf(span.outcome) === "tone-failed") || spans[0];
}
