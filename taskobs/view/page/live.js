// Follows what arrives. The list is asked for once; from its cursor on, only what has changed.
const settings = JSON.parse(document.getElementById("data").textContent);
const OUTSIDE = "outside"; // where the server keeps log lines that have no trace
const MOST_TASKS = 50; // of one trace whose runs are drawn side by side
const WAIT = 20; // seconds that the server may wait for what is new
const byId = (id) => document.getElementById(id);
const state = {
  instance: "", cursor: 0, evicted: 0, room: 100, more: false, totals: {}, commands: [],
  entries: new Map(), // trace id -> {summary, element}
  selected: "", drawn: 0, showing: "", following: true, round: 0, waiting: null,
};

function remember() {
  const parts = { trace: state.selected, q: byId("text").value, outcome: byId("outcome").value };
  const text = new URLSearchParams(Object.entries(parts).filter(([, value]) => value)).toString();
  history.replaceState(null, "", text ? "#" + text : location.pathname);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  state.selected = parts.get("trace") || "";
  byId("text").value = parts.get("q") || "";
  byId("outcome").value = parts.get("outcome") || "";
}

async function ask(path, options, signal) {
  const query = new URLSearchParams({ q: byId("text").value, outcome: byId("outcome").value, ...options });
  const answer = await fetch(path + "?" + query, { signal });
  return answer.ok ? answer.json() : null;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

function drawEntry(summary) {
  const entry = button("entry", "", () => select(summary.trace_id));
  const head = make("span", "head", make("b", "", summary.title || "…"), make("time", "", clock(summary.start)));
  const names = Object.keys(summary.tasks).filter((name) => !summary.title.endsWith(" " + name));
  const tasks = names.length ? make("span", "task", names.join(", ")) : "";
  const marks = make("span", "marks");
  for (const [outcome, number] of Object.entries(summary.outcomes)) {
    marks.append(make("span", "mark " + toneOf(outcome), marked(outcome) + (number > 1 ? " ×" + number : "")));
  }
  const counts = summary.counts;
  const facts = [took(summary.seconds)];
  if (summary.queue_latency !== null) facts.push("queued " + took(summary.queue_latency));
  if (counts.event) facts.push(many(counts.event, "error"));
  if (counts.log) facts.push(many(counts.log, "log line"));
  marks.append(make("span", "facts", facts.join(" · ")));
  entry.append(head, tasks, marks);
  entry.dataset.trace = summary.trace_id;
  entry.setAttribute("aria-current", String(summary.trace_id === state.selected));
  return entry;
}

// Put the traces of an answer into the list: each stands once, by its number, the highest first.
function take(traces) {
  const list = byId("list");
  for (const summary of traces) {
    const element = drawEntry(summary);
    const before = state.entries.get(summary.trace_id);
    state.entries.set(summary.trace_id, { summary, element });
    if (before) {
      const focused = document.activeElement === before.element;
      before.element.replaceWith(element);
      if (focused) element.focus();
      continue;
    }
    let next = list.firstChild;
    while (next && numberOf(next) > summary.number) next = next.nextSibling;
    list.insertBefore(element, next);
  }
}

function numberOf(element) {
  return state.entries.get(element.dataset.trace).summary.number;
}

// Take out what the server no longer has, and what there is no room for.
function trim() {
  for (const [id, { summary, element }] of state.entries) {
    if (summary.revision > state.evicted) continue;
    element.remove();
    state.entries.delete(id);
  }
  const list = byId("list");
  while (list.children.length > state.room) {
    state.entries.delete(list.lastChild.dataset.trace);
    list.lastChild.remove();
    state.more = true;
  }
  byId("older").hidden = !state.more;
}

async function showOlder() {
  const round = state.round;
  const lowest = Math.min(...[...state.entries.values()].map((entry) => entry.summary.number));
  const answer = await ask("/api/traces", { below: lowest }).catch(() => null);
  if (!answer || round !== state.round) return;
  state.room += 100;
  state.more = answer.more;
  // What has changed meanwhile is there already, and newer.
  take(answer.traces.filter((summary) => !state.entries.has(summary.trace_id)));
  trim();
}

function apply(answer) {
  Object.assign(state, { cursor: answer.cursor, evicted: answer.evicted, totals: answer.totals, commands: answer.commands });
  take(answer.traces);
  trim();
  describe();
  chooseTrace();
}

function describe() {
  const totals = state.totals;
  const parts = [many(totals.traces, "trace"), many(totals.span || 0, "span"), many(totals.event || 0, "error"), many(totals.log || 0, "log line")];
  const mebibytes = (bytes) => (bytes / 1048576).toFixed(bytes < 1e7 ? 1 : 0);
  parts.push(mebibytes(totals.bytes) + " of " + mebibytes(totals.limit) + " MiB");
  if (state.commands.length) parts.push(state.commands.join(", "));
  byId("summary").textContent = parts.join(" · ");
  const notices = [];
  if (totals.dropped_traces) notices.push("Oldest traces dropped: " + totals.dropped_traces + ". The page keeps " + mebibytes(totals.limit) + " MiB; --memory sets how much.");
  if (totals.dropped_records) notices.push("Records dropped: " + totals.dropped_records + ", of traces that took more than a quarter of the page's memory.");
  if (totals.refused) notices.push(many(totals.refused, "request") + " could not be read.");
  if (totals.grpc) notices.push("Something sends gRPC to this page, which takes http/protobuf: look for an exporter, or a protocol, that the app's code names.");
  notice("dropped", notices.join(" "));
  byId("nothing").replaceChildren(...(state.entries.size ? [] : hints()));
}

function notice(id, text) {
  let element = byId("notice-" + id);
  if (!element) {
    element = make("p", "notice");
    element.id = "notice-" + id;
    byId("notices").append(element);
  }
  element.textContent = text;
  element.hidden = !text;
}

function hints() {
  if (byId("text").value || byId("outcome").value) return [make("p", "", "No trace matches the search.")];
  const code = (text) => make("code", "", text);
  const running = state.commands.length
    ? make("li", "", "Has a task been published? Running with this page: " + state.commands.join(", ") + ".")
    : make("li", "", "No command runs with this page. Start one: ", code("taskobs view -- celery -A … worker"), ", or set the variables below.");
  return [
    make("p", "", make("b", "", "Nothing has arrived yet.")),
    make(
      "ol", "",
      running,
      make("li", "", "Does the app call ", code("taskobs.init()"), " next to ", code("Celery(…)"), "? Its process says so in a line of its log."),
      make("li", "", "Arguments in code win over variables: look for ", code("taskobs.init(otlp_endpoint=…, sample_rate=…, sentry_dsn=…, logs=…)"), ", ", code("enabled=False"), ", ", code("sentry_sdk.init(dsn=…)"), ", and exporters of a TracerProvider that name an endpoint."),
      make("li", "", "A file of variables that is loaded in code (", code("load_dotenv(override=True)"), ") wins over those of the command."),
      make("li", "", "Start each process with the same line: web server, worker and beat."),
    ),
    make("p", "", "The variables that the page needs:"),
    make("pre", "", settings.variables.join("\n")),
  ];
}

function chooseTrace() {
  if (!state.selected && state.entries.size) {
    const newest = [...state.entries.values()].sort((one, other) => other.summary.number - one.summary.number);
    const first = newest.find((entry) => entry.summary.outcomes.failed) || newest.find((entry) => entry.summary.trace_id !== OUTSIDE);
    if (first && first.summary.counts.span) select(first.summary.trace_id);
  } else if (state.selected) {
    const entry = state.entries.get(state.selected);
    if (entry ? entry.summary.revision > state.drawn : !state.drawn) show(state.selected);
  }
}

function select(traceId) {
  state.entries.get(state.selected)?.element.setAttribute("aria-current", "false");
  state.selected = traceId;
  state.entries.get(traceId)?.element.setAttribute("aria-current", "true");
  page.chosen = "";
  state.drawn = 0; // a revision of the trace before says nothing of this one
  remember();
  show(traceId);
}

async function show(traceId) {
  if (state.showing === traceId) return;
  state.showing = traceId;
  try {
    await fetchAndDraw(traceId);
    // A long trace that grows takes time to draw: leave some for the rest of the page.
    await new Promise((done) => setTimeout(done, page.rows.size));
  } finally {
    if (state.showing === traceId) state.showing = "";
  }
  if (traceId === state.selected) chooseTrace(); // it may have changed meanwhile
}

async function fetchAndDraw(traceId) {
  const answer = await fetch("/api/trace/" + encodeURIComponent(traceId)).catch(() => null);
  if (traceId !== state.selected || !answer) return;
  if (!answer.ok) {
    state.drawn = Infinity;
    byId("traces").replaceChildren(make("p", "notice", "This trace is no longer kept: it was dropped, or the page was started again."));
    byId("detail").replaceChildren();
    return;
  }
  const found = await answer.json();
  if (traceId !== state.selected || found.summary.revision < state.drawn) return;
  state.drawn = found.summary.revision;
  drawFound(found);
}

function drawFound(found) {
  page.rows.clear();
  page.traces = found.trace ? [found.trace] : [];
  page.issues = found.issues;
  const section = found.trace
    ? drawTrace(found.trace)
    : make("section", "card trace", make("header", "", make("h2", "", found.summary.title || "No span has arrived yet"), make("span", "id", found.summary.trace_id)));
  if (found.summary.dropped) section.append(make("p", "notice", "Records of this trace dropped: " + found.summary.dropped + ". It took too much of the page's memory."));
  if (found.trace) section.append(...drawAttempts(found.trace));
  const evidence = make("div", "evidence", ...found.issues.map(drawIssue));
  if (found.logs.length) evidence.append(drawLogs(found.logs));
  section.append(evidence);
  byId("traces").replaceChildren(section);
  const best = page.rows.has(page.chosen) ? page.chosen : found.trace && worstOf(found.trace.spans).span_id;
  if (best) choose(best, false);
  else byId("detail").replaceChildren();
}

const attributeOf = (span, name) => (span.attributes.find(([key]) => key === name) || ["", ""])[1];

// The runs of a task that has more than one: attempts, and deliveries of the same message.
function drawAttempts(trace) {
  const runs = new Map();
  for (const span of trace.spans.filter((candidate) => candidate.role === "run")) {
    const id = attributeOf(span, "celery.task_id");
    runs.set(id, [...(runs.get(id) || []), span]);
  }
  return [...runs].filter(([id, spans]) => id && spans.length > 1).slice(0, MOST_TASKS).map(([id, spans]) => {
    const columns = make("div", "columns");
    for (const span of spans.sort((one, other) => one.start - other.start)) columns.append(drawAttempt(span));
    const name = spans[0].name.replace(/^run /, "");
    return make("div", "attempts", make("h3", "", many(spans.length, "run") + " of " + name), make("div", "id", id), columns);
  });
}

function drawAttempt(span) {
  const box = button("attempt " + tone(span), "", () => choose(span.span_id, true));
  const queued = span.queue_latency === null ? "" : " · queued " + took(span.queue_latency);
  box.append(
    make("b", "", "Attempt " + (attributeOf(span, "celery.attempt") || "?")),
    make("span", "mark", marked(span.outcome)),
    make("span", "facts", "at +" + took(span.start) + " · " + took(span.seconds) + queued),
    make("span", "note", span.note),
  );
  return box;
}

function drawLogs(lines) {
  const table = make("table", "logs");
  for (const line of lines.slice(-MOST_ROWS)) {
    const text = make("td", "", make("span", "logger", line.logger + " "), drawText(line.text));
    if (line.stack) text.append(make("details", "", make("summary", "", "Stack trace"), make("pre", "", line.stack)));
    const level = make("td", "", page.rows.has(line.span_id) ? jump(line.span_id, line.level) : line.level);
    table.append(make("tr", line.severity >= 17 ? "bad" : "", make("td", "", clock(line.seconds)), level, text));
  }
  const title = many(lines.length, "log line") + (lines.length > MOST_ROWS ? ", the last " + MOST_ROWS : "");
  return make("section", "log", make("h3", "", title), table);
}

async function load(signal) {
  const answer = await ask("/api/traces", {}, signal);
  byId("list").replaceChildren();
  state.entries.clear();
  if (state.instance && state.instance !== answer.instance) {
    notice("restarted", "The page was started again: what it had before is gone.");
    state.drawn = 0;
  }
  Object.assign(state, { instance: answer.instance, room: Math.max(100, answer.traces.length), more: answer.more });
  apply(answer);
}

async function follow(fresh) {
  const round = ++state.round;
  state.waiting?.abort();
  const waiting = (state.waiting = new AbortController());
  let loaded = !fresh;
  while (round === state.round) {
    try {
      if (!loaded) await load(waiting.signal);
      loaded = true;
      notice("ended", "");
      // Paused, it waits for what never comes, so that the server knows that it is shown.
      const after = state.following ? state.cursor : Number.MAX_SAFE_INTEGER;
      const answer = await ask("/api/changes", { after, wait: WAIT }, waiting.signal);
      if (round !== state.round) return;
      if (answer.instance !== state.instance) loaded = false;
      else if (state.following) apply(answer);
    } catch (error) {
      if (round !== state.round) return;
      notice("ended", "The page's server has ended. What had arrived is still shown; the page goes on when a command is started with taskobs view again.");
      await new Promise((done) => setTimeout(done, 1000));
      loaded = false;
    }
  }
}

byId("search").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["text", "outcome"]) byId(id).addEventListener("input", () => { remember(); follow(true); });
byId("follow").addEventListener("click", () => {
  state.following = !state.following;
  byId("follow").setAttribute("aria-pressed", String(state.following));
  byId("follow").textContent = state.following ? "Following" : "Paused";
  follow(false);
});
byId("older").addEventListener("click", showOlder);
window.addEventListener("hashchange", () => { recall(); state.drawn = 0; follow(true); });

drawLegend();
recall();
follow(true);
