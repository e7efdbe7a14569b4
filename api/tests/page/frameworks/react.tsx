import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';

function Page() {
  const [log, setLog] = useState(true);
  const [told, tell] = useState('');
  return (
    <>
      <process-button scope="acme" label="Import" parameters={{ mode: 'full', seconds: 60 }} getToken={async () => null} ifRunning="join" log={log}
        onprocess-ended={({ detail }) => tell(detail.state)} />
      <output>{told}</output>
      <button id="quiet" onClick={() => setLog(false)}>No log</button>
    </>
  );
}

createRoot(document.getElementById('app')!).render(<StrictMode><Page /></StrictMode>);
