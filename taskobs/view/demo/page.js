"use strict";
// Everything is built with textContent: what a task is called can't become markup.
const data = JSON.parse(document.getElementById("data").textContent);
const rows = new Map(); // span id -> {span, trace, button}
const GLYPHS = { succeeded: "✓", failed: "✗", lost: "✗", unknown: "✗", retried: "↻" };

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function took(seconds) {
  if (seconds < 0.001) return (seconds * 1000).toFixed(1) + " ms";
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  return seconds.toFixed(2) + " s";
}

function tone(span) {
  if (["failed", "lost", "unknown"].includes(span.outcome)) return "tone-failed";
  if (span.role === "publish") return "tone-publish";
  if (span.role === "other") return "tone-other";
  return { succeeded: "tone-succeeded", retried: "tone-retried" }[span.outcome] || "tone-quiet";
}

function step(seconds) {
  const rough = Math.max(seconds, 1e-6) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= rough);
}

function jump(spanId, text) {
  if (!rows.has(spanId)) return make("span", "", text);
  const button = make("button", "to", text);
  button.type = "button";
  button.addEventListener("click", () => choose(spanId, true));
  return button;
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

function drawRow(trace, span, total) {
  const [verb, ...rest] = span.role === "other" ? ["", span.name] : span.name.split(" ");
  const label = make("span", "label");
  for (let depth = 0; depth < span.depth; depth++) label.append(make("i", "guide"));
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
  const word = notable ? make("b", "", (GLYPHS[span.outcome] || "–") + " " + span.outcome) : "";
  // Beside the bar: to its right, unless that would leave the card.
  const before = notable && span.start + span.seconds > 0.85 * total && span.start > 0.4 * total;
  const end = make("span", before ? "took before" : "took", took(span.seconds), word);
  end.style.left = before
    ? percent(span.start - Math.min(span.queue_latency || 0, span.start))
    : "max(" + percent(span.start + span.seconds) + ", calc(" + percent(span.start) + " + 3px))";
  time.append(bar, end);

  const button = make("button", "row " + span.role + " " + tone(span), label, time);
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", [span.name, span.outcome, took(span.seconds)].filter(Boolean).join(", "));
  button.addEventListener("click", () => choose(span.span_id, false));
  rows.set(span.span_id, { span, trace, button });
  return button;
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

function drawIssue(issue) {
  const tags = make("ul", "tags");
  for (const [key, value] of issue.tags) tags.append(make("li", "", make("span", "", key), make("span", "", value)));
  return make(
    "section", "issue",
    make("h3", "", "The Sentry issue"),
    make("div", "", make("span", "title", issue.title), make("span", "message", issue.message)),
    tags,
    make("div", "id", "trace " + issue.trace_id + " · ", jump(issue.span_id, "span " + issue.span_id)),
  );
}

function drawLog(line) {
  const text = make("pre");
  // Only ids that are spans or traces of this page become jumps.
  for (const piece of line.split(/\b([0-9a-f]{32}|[0-9a-f]{16})\b/)) {
    const trace = data.traces.find((candidate) => candidate.trace_id === piece);
    if (rows.has(piece)) text.append(jump(piece, piece));
    else if (trace) text.append(jump(trace.spans[0].span_id, piece));
    else text.append(piece);
  }
  return make("section", "log", make("h3", "", "A log line with the same ids"), text);
}

function drawTrace(trace) {
  const total = Math.max(trace.seconds, 1e-6);
  const runs = trace.spans.filter((span) => span.role === "run").length;
  const failed = trace.failures ? make("span", "bad", trace.failures + " failed") : "";
  const head = make(
    "header", "",
    make("h2", "", trace.title),
    make("span", "facts", took(trace.seconds) + " · " + trace.spans.length + " spans · " + runs + " runs"),
    failed,
    make("span", "id", trace.trace_id),
  );
  const list = make("div", "rows");
  for (const span of trace.spans) list.append(drawRow(trace, span, total));
  const section = make("section", "card trace", head, drawScale(total), list);
  const evidence = make("div", "evidence");
  for (const issue of data.issues) if (issue.trace_id === trace.trace_id) evidence.append(drawIssue(issue));
  for (const line of data.log) if (line.includes(trace.trace_id)) evidence.append(drawLog(line));
  if (evidence.childNodes.length) section.append(evidence);
  return section;
}

function drawLinks(span) {
  const list = make("ul", "plain");
  for (const link of span.links) {
    const target = rows.get(link.span_id);
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
  if (span.outcome) parts.push(make("span", "pill " + tone(span), (GLYPHS[span.outcome] || "–") + " " + span.outcome));
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
  for (const issue of data.issues.filter((candidate) => candidate.span_id === span.span_id)) {
    parts.push(make("h3", "", "Sentry"), make("div", "", issue.title + " · event ", make("span", "id", issue.event_id)));
  }
  if (span.links.length) parts.push(make("h3", "", "Links"), drawLinks(span));
  parts.push(make("h3", "", "Attributes"), pairs(span.attributes));
  return parts;
}

function choose(spanId, scroll) {
  for (const { button } of rows.values()) button.setAttribute("aria-pressed", "false");
  const row = rows.get(spanId);
  row.button.setAttribute("aria-pressed", "true");
  const panel = document.getElementById("detail");
  panel.replaceChildren(...drawDetail(row));
  panel.scrollTop = 0;
  if (scroll) {
    row.button.scrollIntoView({ block: "start" });
    row.button.focus({ preventScroll: true });
  }
}

const spans = data.traces.flatMap((trace) => trace.spans);
document.getElementById("summary").textContent =
  data.traces.length + " traces, " + spans.length + " spans, " + data.issues.length + " Sentry issue" + (data.issues.length === 1 ? "" : "s");
// Drawn twice over: a log line may name a span of a later trace, so all rows must be known first.
for (const trace of data.traces) drawTrace(trace);
document.getElementById("traces").append(...data.traces.map(drawTrace));
const first = spans.find((span) => span.role === "run" && span.outcome === "failed") || spans[0];
if (first) choose(first.span_id, false);
