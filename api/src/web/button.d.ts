// Types of <process-button>, the element that `button.js` defines. Served at /button.d.ts.

/** An execution, as the API returns it. */
export interface Execution {
  name: string;
  scope: string;
  job: string;
  process?: string;
  invocationId?: string;
  parameters?: Record<string, unknown>;
  progress?: Progress;
  state: 'pending' | 'running' | 'succeeded' | 'failed' | 'cancelled';
  reason?: string;
  message?: string;
  tasks: { total: number; running: number; succeeded: number; failed: number; cancelled: number; retried: number };
  createdAt?: string;
  startedAt?: string;
  completedAt?: string;
  logUri?: string;
  links: Record<string, string>;
}

/** The progress that the job reports: an amount of a total, or a fraction from 0 to 1. */
export interface Progress {
  done: number;
  total?: number;
  message?: string;
}

/** How an execution ended. With several tasks `result` is a list, in the order of `results`. */
export interface Ended extends Execution {
  result?: unknown;
  results?: { task: number; value: unknown; time?: string }[];
}

/** Why a start or following an execution has ended. Without a `status` there was no answer. */
export interface Refused {
  status?: number;
  type?: string;
  message: string;
  requestId?: string;
  execution?: string;
  errors?: { pointer: string; detail: string }[];
}

export type IfRunning = 'allow' | 'reject' | 'join' | 'replace';
export type ButtonState = 'idle' | 'starting' | Execution['state'] | 'refused';

export interface ProcessEventMap {
  'process-starting': CustomEvent<undefined>;
  'process-started': CustomEvent<Execution>;
  'process-changed': CustomEvent<Execution>;
  'process-progress': CustomEvent<Progress>;
  'process-ended': CustomEvent<Ended>;
  'process-refused': CustomEvent<Refused>;
}

/** The properties that can be set. Every attribute is a property, too. */
export interface ProcessButtonProperties {
  scope?: string | null;
  process?: string | null;
  api?: string | null;
  label?: string | null;
  log?: boolean;
  name?: string | null;
  ifRunning?: IfRunning | null;
  usualSeconds?: number | string | null;
  parameters?: Record<string, unknown> | string | null;
  token?: string | null;
  getToken?: (() => string | null | undefined | Promise<string | null | undefined>) | null;
}

export interface ProcessButton extends HTMLElement, Required<ProcessButtonProperties> {
  readonly execution: Execution | undefined;
  readonly progress: Progress | undefined;
  readonly result: unknown;
  start(): Promise<Execution | undefined>;
  cancel(): Promise<void>;
  follow(name?: string): void;
  addEventListener<K extends keyof ProcessEventMap>(
    type: K, listener: (this: ProcessButton, event: ProcessEventMap[K]) => unknown, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
}

export declare const ProcessButton: { new (): ProcessButton; prototype: ProcessButton };

/** The same as attributes, and as React's and Svelte's event attributes. */
export type ProcessButtonAttributes = ProcessButtonProperties & {
  'if-running'?: IfRunning;
  'usual-seconds'?: number | string;
  id?: string;
  class?: string;
  className?: string;
  style?: unknown;
  ref?: unknown;
  key?: string | number | null;
  children?: never;
} & { [K in keyof ProcessEventMap as `on${K}`]?: (event: ProcessEventMap[K]) => void };

/** For Vue: the properties, and the events as `@process-ended`. */
export type ProcessButtonVue = new () => {
  $props: ProcessButtonAttributes & { [K in keyof ProcessEventMap as `onProcess${Capitalize<K extends `process-${infer Rest}` ? Rest : never>}`]?: (event: ProcessEventMap[K]) => void };
};

declare global {
  interface HTMLElementTagNameMap {
    'process-button': ProcessButton;
  }
}

// Each of these extends a framework's own types; where the framework is not installed there is nothing to extend.
// @ts-ignore
declare module 'react' {
  namespace JSX {
    interface IntrinsicElements {
      'process-button': ProcessButtonAttributes;
    }
  }
}

// @ts-ignore
declare module 'vue' {
  interface GlobalComponents {
    'process-button': ProcessButtonVue;
  }
}

// @ts-ignore
declare module 'svelte/elements' {
  interface SvelteHTMLElements {
    'process-button': ProcessButtonAttributes;
  }
}
