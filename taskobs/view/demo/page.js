const data = JSON.parse(document.getElementById("data").textContent);
page.traces = data.traces;
page.issues = data.issues;

function drawLog(line) {
  return make("section", "log", make("h3", "", "A log line with the same ids"), drawText(line));
}

function drawAll(trace) {
  const section = drawTrace(trace);
  const evidence = make("div", "evidence");
  for (const issue of data.issues) if (issue.trace_id === trace.trace_id) evidence.append(drawIssue(issue));
  for (const line of data.log) if (line.includes(trace.trace_id)) evidence.append(drawLog(line));
  if (evidence.childNodes.length) section.append(evidence);
  return section;
}

const spans = data.traces.flatMap((trace) => trace.spans);
document.getElementById("summary").textContent =
  data.traces.length + " traces, " + spans.length + " spans, " + many(data.issues.length, "Sentry issue");
drawLegend();
// Drawn twice over: a log line may name a span of a later trace, so all rows must be known first.
for (const trace of data.traces) drawTrace(trace);
document.getElementById("traces").append(...data.traces.map(drawAll));
const first = worstOf(spans);
if (first) choose(first.span_id, false);
