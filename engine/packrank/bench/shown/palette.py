"""The colours of the page: each as it is on white, with what takes its place on black."""

INK, FADED, GRID, PRIMARY = "#1d2529", "#7b878d", "#e3e8ea", "#1a7f5a"
MODELS = (
    *("#1a7f5a", "#2f6db3", "#c2642d", "#7b5ea7"),
    *("#3a8a9c", "#a8476a", "#7d7a22", "#5d6770"),
)
# What the device computes is green, what surrounds it ochre.
PART = ("#16694b", "#4fa585", "#a5d3c0", "#e2c48a", "#bf9149", "#86602a", "#9aa5ab")
LATENCY = ("#a9c3e0", "#6f9bcb", "#3c70ad", "#1b4377")
ENGINES = ("#1a7f5a", "#8aa4b8", "#c3ccd3", "#6d7f8c", "#a9b7c0", "#525f68")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")

DARK = {
    "#1d2529": "#e3e8ea",
    "#7b878d": "#8d999f",
    "#e3e8ea": "#2b3439",
    "#1a7f5a": "#3fb58a",
    "#2f6db3": "#6ea8e8",
    "#c2642d": "#e8935c",
    "#7b5ea7": "#b097dc",
    "#3a8a9c": "#6dbccd",
    "#a8476a": "#dd84a4",
    "#7d7a22": "#bdb95a",
    "#5d6770": "#9aa5ae",
    "#16694b": "#2f9a73",
    "#4fa585": "#6cc2a2",
    "#a5d3c0": "#b5e0ce",
    "#a9c3e0": "#3b5f88",
    "#6f9bcb": "#5b8fc7",
    "#3c70ad": "#8fbcea",
    "#1b4377": "#cfe3f9",
    "#c3ccd3": "#56636b",
    "#6d7f8c": "#9fb0bb",
    "#a9b7c0": "#74828b",
    "#525f68": "#b6c2c9",
}
