// The timeline's layers and their colours, which the service list shows as swatches: the list is the chart's legend.
import { computed } from '@preact/signals';
import { type Layer, stackLayers } from '../logic/timeline';
import { LAYER_COLOURS } from '../paint/palette';
import { timeline } from '../state/answers';
import { palette } from '../state/document';

export const layers = computed<readonly Layer[]>(() =>
  timeline.value ? stackLayers(timeline.value.lines, LAYER_COLOURS) : [],
);

/** The colour of a service in the timeline; the shared one when it is not among the biggest; null when not drawn. */
export function layerColour(service: string): string | null {
  if (layers.value.length < 2) return null;
  const at = layers.value.findIndex((layer) => layer.label === service);
  if (at >= 0) return palette.value.layers[at];
  const drawn = timeline.value?.lines.some((line) => line.label === service) ?? false;
  return drawn ? palette.value.layers[LAYER_COLOURS] : null;
}
