// The timeline's chart: stacked areas by uPlot. Windows are drawn over it by views/Bands.tsx, which takes pointer and
// keys; uPlot's own mouse-only selection is off.
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import type { Layer } from '../logic/timeline';
import type { Palette } from './palette';

export interface TimelinePicture {
  /** Unix ms. */
  readonly times: readonly number[];
  readonly layers: readonly Layer[];
  readonly window: { readonly from: number; readonly until: number };
  readonly palette: Palette;
  readonly formatValue: (value: number) => string;
  readonly formatTime: (ms: number) => string;
  /** Told where the plot lies once the chart has measured its axes. */
  readonly onPlaced: (box: PlotBox) => void;
}

/** Height of the time axis below the plot; styles/workbench.css leaves it free of windows. */
const TIME_AXIS_PX = 24;

/** Where time lies on screen: CSS pixels from the host's left edge. */
export interface PlotBox {
  readonly left: number;
  readonly width: number;
}

/** Draws the chart; returns how to remove it. */
export function drawTimeline(host: HTMLElement, picture: TimelinePicture, height: number): () => void {
  const { palette, layers, window } = picture;
  const font = '11px system-ui, sans-serif';
  const axis = { stroke: palette.text, grid: { stroke: palette.grid, width: 1 }, ticks: { show: false }, font };
  // Drawn from the top of the stack down, each filled to the ground, so that the layer below covers what is not its own.
  const top = layers.toReversed();
  const chart = new uPlot(
    {
      width: host.clientWidth,
      height,
      padding: [8, 8, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      hooks: {
        ready: [(chart) => picture.onPlaced({ left: chart.over.offsetLeft, width: chart.over.clientWidth })],
      },
      scales: {
        x: { time: true, range: [window.from / 1000, window.until / 1000] },
        y: { range: (_, __, max) => [0, max > 0 ? max * 1.08 : 1] },
      },
      axes: [
        {
          ...axis,
          size: TIME_AXIS_PX,
          space: 80,
          values: (_, splits) => splits.map((seconds) => picture.formatTime(seconds * 1000)),
        },
        { ...axis, size: 58, space: 28, values: (_, splits) => splits.map(picture.formatValue) },
      ],
      series: [
        {},
        ...top.map((layer) => {
          const at = layers.indexOf(layer);
          const stacked = palette.layers[layer.label === null ? palette.layers.length - 1 : at];
          const colour = layers.length === 1 ? palette.lone : stacked;
          const paths = uPlot.paths.stepped?.({ align: -1 });
          return { stroke: colour, fill: colour, width: 0.5, points: { show: false }, ...(paths ? { paths } : {}) };
        }),
      ],
    },
    [picture.times.map((ms) => ms / 1000), ...top.map((layer) => Array.from(layer.stacked))],
    host,
  );
  return () => chart.destroy();
}
