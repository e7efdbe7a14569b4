import '@angular/compiler';
import { Component, CUSTOM_ELEMENTS_SCHEMA, provideZonelessChangeDetection, signal } from '@angular/core';
import { bootstrapApplication } from '@angular/platform-browser';

@Component({
  selector: 'app-root',
  schemas: [CUSTOM_ELEMENTS_SCHEMA],
  template: `
    <process-button [scope]="scope" label="Import" [parameters]="parameters" [getToken]="getToken" [ifRunning]="'join'" [log]="log()"
      (process-ended)="ended($event)"></process-button>
    <output>{{ told() }}</output>
    <button id="quiet" (click)="log.set(false)">No log</button>`,
})
class Page {
  scope = 'acme';
  parameters = { mode: 'full', seconds: 60 };
  getToken = async () => null;
  log = signal(true);
  told = signal('');
  ended(event: Event) { this.told.set((event as CustomEvent).detail.state); }
}

document.getElementById('app')!.append(document.createElement('app-root'));
bootstrapApplication(Page, { providers: [provideZonelessChangeDetection()] });
