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
  readonly format: (value: number) => string;
}

/** Where time lies on screen: CSS pixels from the host's left edge. */
export interface PlotBox {
  readonly left: number;
  readonly width: number;
}

export interface TimelineChart {
  readonly box: () => PlotBox;
  readonly destroy: () => void;
}

export function drawTimeline(host: HTMLElement, picture: TimelinePicture, height: number): TimelineChart {
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
      scales: {
        x: { time: true, range: [window.from / 1000, window.until / 1000] },
        y: { range: (_, __, max) => [0, max > 0 ? max * 1.08 : 1] },
      },
      axes: [
        { ...axis, space: 70 },
        { ...axis, size: 58, space: 28, values: (_, splits) => splits.map(picture.format) },
      ],
      series: [
        {},
        ...top.map((layer) => {
          const at = layers.indexOf(layer);
          const colour = palette.layers[layer.label === null ? palette.layers.length - 1 : at] ?? palette.text;
          const paths = uPlot.paths.stepped?.({ align: -1 });
          return { stroke: colour, fill: colour, width: 0.5, points: { show: false }, ...(paths ? { paths } : {}) };
        }),
      ],
    },
    [picture.times.map((ms) => ms / 1000), ...top.map((layer) => [...layer.stacked])],
    host,
  );
  return {
    box: () => ({ left: chart.over.offsetLeft, width: chart.over.clientWidth }),
    destroy: () => chart.destroy(),
  };
}
