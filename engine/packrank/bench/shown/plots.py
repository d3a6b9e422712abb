"""What a report shows as pictures, question by question."""

from packrank.bench.report import Report
from packrank.bench.shown.figures import Section
from packrank.bench.shown.latency_plots import server, single_stream
from packrank.bench.shown.offline_plots import cost, engines_beside, throughput, where_time_goes
from packrank.bench.shown.roofline import roofline
from packrank.bench.shown.summary import OURS


def sections(report: Report) -> list[Section]:
    """All that there are numbers for."""
    offline = [one for one in report.results if one.workload == "Offline"]
    own = [one for one in offline if one.by == OURS]
    made = [
        where_time_goes(own),
        throughput(own),
        roofline(report.ceilings, own),
        server([one for one in report.results if one.workload == "Server"]),
        single_stream([one for one in report.results if one.workload == "SingleStream"]),
        engines_beside(offline),
        cost(own),
    ]
    return [section for section in made if section.plots]
