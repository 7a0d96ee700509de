// Colours of frames: by the package a function belongs to, so that what belongs together looks alike; and contrast.

/**
 * The package, module or subsystem a function name starts with.
 *
 * `github.com/acme/api.(*Server).ServeHTTP` is `github.com/acme/api`, `tokio::runtime::task::poll` is `tokio::runtime`,
 * `org.apache.lucene.Search.run` is `org.apache`, `tcp_sendmsg_locked` is `tcp`.
 */
export function packageOf(name: string): string {
  const plain = name.replace(/^[<&*\s]+/, '');
  const slash = plain.lastIndexOf('/', plain.search(/[([<]|$/));
  const path = slash < 0 ? '' : plain.slice(0, slash + 1);
  const rest = plain.slice(slash + 1);
  if (path) return path + /^[^.:(]*/.exec(rest)?.[0];
  if (rest.includes('::')) return rest.split('::').slice(0, 2).join('::').replace(/[<(].*$/, '');
  if (rest.includes('.')) {
    const parts = rest.split('.');
    return parts.slice(0, Math.max(1, Math.min(2, parts.length - 1))).join('.');
  }
  return /^_*([a-zA-Z0-9]+)/.exec(rest)?.[1]?.toLowerCase() ?? rest;
}

/** A palette index for a text; equal texts give equal indexes on every machine and in every session. */
export function paletteIndex(text: string, size: number): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash ^= hash >>> 15;
  hash = Math.imul(hash, 0x2c1b3c6d);
  return (hash >>> 16) % size;
}

/** A C name such as `ExecProcNode` tells no package. */
function isPlain(name: string): boolean {
  return /^_*[a-zA-Z][a-zA-Z0-9]*$/.test(name);
}

/** The leaf frames that say what a thread off the CPU waited for; each has a colour of its own. */
export const STATE_FRAMES: readonly string[] = ['[runnable]', '[blocked]'];

/**
 * Palette index per function name: `packages` colours for packages, then `plain` quiet ones for names without, then one
 * for each of the `STATE_FRAMES`.
 */
export function nameColours(names: readonly string[], packages: number, plain: number): Uint8Array {
  return Uint8Array.from(names, (name) => {
    const state = STATE_FRAMES.indexOf(name);
    if (state >= 0) return packages + plain + state;
    return isPlain(name) ? packages + paletteIndex(name, plain) : paletteIndex(packageOf(name), packages);
  });
}

/** Relative luminance of `#rrggbb` (WCAG 2.2). */
export function luminance(hex: string): number {
  const channel = (at: number): number => {
    const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.040_45 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
}

export function contrast(a: string, b: string): number {
  const [light, dark] = [luminance(a), luminance(b)].toSorted((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}

/** Black or white, whichever can be read on the fill. */
export function inkOn(fill: string): '#000000' | '#ffffff' {
  return contrast(fill, '#000000') >= contrast(fill, '#ffffff') ? '#000000' : '#ffffff';
}
