// What the types of the button say must fit how pages use it.
import type { Ended, ProcessButton } from './generated/process-button.d.ts';
import type { GlobalComponents } from 'vue';
import type { SvelteHTMLElements } from 'svelte/elements';

const button = document.createElement('process-button');
button.scope = 'acme';
button.parameters = { document: 'a' };
button.getToken = async () => 'token';
button.ifRunning = 'join';
button.log = false;
// @ts-expect-error: there is no such mode
button.ifRunning = 'jion';
button.addEventListener('process-ended', ({ detail }) => {
  const ended: Ended = detail;
  return ended.result;
});
button.addEventListener('process-refused', ({ detail }) => detail.status?.toFixed());
const started: Promise<unknown> = button.start();
const same: ProcessButton = button;
export const props: SvelteHTMLElements['process-button'] = { scope: 'acme', 'if-running': 'join', 'onprocess-ended': ({ detail }) => detail.state };
export type Vue = InstanceType<GlobalComponents['process-button']>['$props'];
export const vue: Vue = { scope: 'acme', onProcessEnded: ({ detail }) => detail.state };
export { same, started };
