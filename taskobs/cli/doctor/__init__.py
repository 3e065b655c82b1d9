"""``taskobs doctor``: looks for what keeps telemetry from its servers, and says how to mend it.

``evidence`` is what is gathered: settings, what servers said, what a probe task saw. Each check in
``checks`` is a function that looks at it and returns one ``Finding``; ``checks.table`` lists them.
"""
