import { createApp } from 'vue/dist/vue.esm-bundler.js';

const app = createApp({
  data: () => ({ scope: 'acme', log: true, parameters: { mode: 'full', seconds: 60 }, getToken: async () => null, told: '' }),
  methods: {
    ended({ detail }: CustomEvent) { this.told = detail.state; },
  },
  template: `
    <process-button :scope="scope" label="Import" :parameters.prop="parameters" :getToken.prop="getToken" if-running="join" :log="log"
      @process-ended="ended"></process-button>
    <output>{{ told }}</output>
    <button id="quiet" @click="log = false">No log</button>`,
});
app.config.compilerOptions.isCustomElement = (tag: string) => tag === 'process-button';
app.mount('#app');
