"""``gnomon view``: what a report says, live over a folder of runs, in a browser.

Pages are made on the server from the records that :mod:`gnomon.runs` reads, by the templates of
:mod:`gnomon.report` and a few more. Nothing is trained or judged here, and the only thing that is
written are preferences: what people chose in a blind A/B.
"""
