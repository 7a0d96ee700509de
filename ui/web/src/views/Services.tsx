// Who uses the CPU: the whole node, then every service, busiest first, with its course over the range; idle ones apart.
import { computed } from '@preact/signals';
import type { Service } from '../types/api';
import { formatCores, formatSeconds, formatShare } from '../logic/measure';
import { groupServices, resample, serviceDetail, sparkPath } from '../logic/services';
import { valueOf } from '../logic/selector';
import { chooseService } from '../state/actions';
import { firstRecorded, overview, recordedSeconds, range, services, timeline } from '../state/answers';
import { serviceFilter, view } from '../state/state';
import { fillBuckets } from '../logic/timeline';
import { ErrorNotice, Skeleton } from './Notice';
import { layerColour } from './layers';

/** Rows drawn per group; beyond it the filter above finds the rest. */
const MAX_ROWS = 300;

const groups = computed(() => groupServices(services.answer.value.data?.services ?? [], serviceFilter.value));
const total = computed(() =>
  (services.answer.value.data?.services ?? []).reduce((sum, service) => sum + service.cpuSeconds, 0),
);
const seconds = computed(() => recordedSeconds(range.value));
const sparks = computed(() => {
  const data = overview.answer.value.data;
  if (!data) return new Map<string, string>();
  const paths = data.series.map((series) => {
    const values = resample(fillBuckets(series.points, data.window, data.stepMs, firstRecorded.value), 24);
    const peak = Math.max(...values.map((value) => value ?? 0));
    return [series.labels['service_name'] ?? '', sparkPath(values, 64, 16, peak)] as const;
  });
  return new Map(paths);
});

export function Services() {
  const { data, pending, error } = services.answer.value;
  return (
    <nav class="sidebar" aria-label="Services" aria-busy={pending}>
      <h2>Services by CPU</h2>
      {error !== null && <ErrorNotice error={error} about="Services:" />}
      {!data && pending && <Skeleton label="Loading services" widths={[100, 92, 84, 76, 60]} />}
      {data && <ServiceLists />}
    </nav>
  );
}

function ServiceLists() {
  const { busy, idle } = groups.value;
  const chosen = valueOf(view.value.matchers, 'service_name');
  const none = busy.length + idle.length === 0;
  return (
    <>
      <input
        type="search"
        aria-label="Find a service"
        placeholder="Find a service"
        value={serviceFilter}
        onInput={(event) => (serviceFilter.value = event.currentTarget.value)}
      />
      <ul data-testid="services">
        <li>
          <WholeNode pressed={view.value.matchers.length === 0} />
        </li>
        {busy.slice(0, MAX_ROWS).map((service) => (
          <li key={service.name}>
            <ServiceRow service={service} pressed={service.name === chosen} />
          </li>
        ))}
      </ul>
      {none && <NoServices />}
      <More count={busy.length - MAX_ROWS} />
      {idle.length > 0 && (
        <>
          <h3>Idle ({idle.length})</h3>
          <ul data-testid="idle-services">
            {idle.slice(0, MAX_ROWS).map((service) => (
              <li key={service.name}>
                <ServiceRow service={service} pressed={service.name === chosen} />
              </li>
            ))}
          </ul>
          <More count={idle.length - MAX_ROWS} />
        </>
      )}
    </>
  );
}

function NoServices() {
  return serviceFilter.value === '' ? (
    <p class="notice">No service used CPU in this range. Samples appear within seconds of Pyrite's start.</p>
  ) : (
    <p class="notice">No service matches “{serviceFilter}”. Clear the field above to see all.</p>
  );
}

function More({ count }: { readonly count: number }) {
  return count > 0 ? <p class="notice">{count} more: type above to find them.</p> : null;
}

function WholeNode({ pressed }: { readonly pressed: boolean }) {
  return (
    <button type="button" class="service" aria-pressed={pressed} onClick={() => chooseService(null)} data-testid="whole-node">
      <span class="swatch" />
      <span class="name">Whole node</span>
      <span class="value">{formatCores(total.value / seconds.value)}</span>
    </button>
  );
}

function ServiceRow({ service, pressed }: { readonly service: Service; readonly pressed: boolean }) {
  const share = total.value > 0 ? service.cpuSeconds / total.value : 0;
  const cores = service.cpuSeconds / seconds.value;
  const detail = [service.kind, serviceDetail(service)].filter(Boolean).join(' · ');
  const colour = pressed || timeline.value === null ? null : layerColour(service.name);
  return (
    <button
      type="button"
      class="service"
      aria-pressed={pressed}
      title={`${service.name}: ${formatSeconds(service.cpuSeconds)} of CPU, ${formatShare(share)} of all services`}
      onClick={() => chooseService(pressed ? null : service.name)}
      data-testid="service"
      data-service={service.name}
      data-cpu-seconds={service.cpuSeconds}
    >
      <span class="swatch" style={{ background: colour ?? 'transparent' }} />
      <span class="name">{service.name}</span>
      <span class="value">{service.idle ? 'idle' : formatCores(cores)}</span>
      <span class="detail">{detail}</span>
      {!service.idle && (
        <>
          <svg viewBox="0 0 64 16" aria-hidden="true" preserveAspectRatio="none">
            <path d={sparks.value.get(service.name) ?? ''} />
          </svg>
          <span class="share-bar" aria-hidden="true">
            <span style={{ width: `${share * 100}%` }} />
          </span>
        </>
      )}
    </button>
  );
}
