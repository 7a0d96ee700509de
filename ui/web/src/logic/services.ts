// The service list: busiest first, idle ones apart, narrowed by what is typed.
import type { Service } from '../types/api';

export interface ServiceGroups {
  readonly busy: readonly Service[];
  readonly idle: readonly Service[];
}

export function groupServices(services: readonly Service[], typed: string): ServiceGroups {
  const wanted = typed.trim().toLowerCase();
  const found = services
    .filter((service) => wanted === '' || haystack(service).includes(wanted))
    .toSorted((a, b) => b.cpuSeconds - a.cpuSeconds || (a.name < b.name ? -1 : Number(a.name > b.name)));
  return { busy: found.filter((one) => !one.idle), idle: found.filter((one) => one.idle) };
}

function haystack(service: Service): string {
  return [service.name, service.kind, ...Object.values(service.labels)].join('\n').toLowerCase();
}

/** What a person should read below the name: image or pod, if any. */
export function serviceDetail(service: Service): string {
  const { namespace, pod, image } = service.labels;
  if (pod) return namespace ? `${namespace}/${pod}` : pod;
  return image ? shortImage(image) : '';
}

/** `registry.example/team/web:1.4@sha256:…` as `web:1.4`. */
export function shortImage(image: string): string {
  const named = image.replace(/@sha256:[0-9a-f]+$/, '');
  return named.slice(named.lastIndexOf('/') + 1);
}

/** An SVG path of bars for one value per bucket, in a box of the given size; nulls leave gaps. */
export function sparkPath(values: readonly (number | null)[], width: number, height: number, peak: number): string {
  const step = width / Math.max(values.length, 1);
  const parts: string[] = [];
  values.forEach((value, i) => {
    if (value === null || value <= 0 || peak <= 0) return;
    const tall = Math.max(1, (value / peak) * height);
    const x = (i * step).toFixed(2);
    parts.push(`M${x} ${height}v${(-tall).toFixed(2)}h${Math.max(step - 0.5, 0.5).toFixed(2)}v${tall.toFixed(2)}z`);
  });
  return parts.join('');
}

/** The values in `count` groups, each the mean of its members that are known. */
export function resample(values: readonly (number | null)[], count: number): (number | null)[] {
  if (values.length <= count) return [...values];
  return Array.from({ length: count }, (_, i) => {
    const from = Math.floor((i * values.length) / count);
    const until = Math.floor(((i + 1) * values.length) / count);
    const known = values.slice(from, until).filter((value) => value !== null);
    return known.length === 0 ? null : known.reduce((a, b) => a + b, 0) / known.length;
  });
}
