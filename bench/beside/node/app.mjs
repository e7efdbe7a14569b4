// The alternative in Node.
//   MODE=sdk     express and Google's client, over REST
//   MODE=sample  express, a token and a connection for each request, as in the sample
import http from 'node:http';
import express from 'express';

const { PORT, UPSTREAM_PORT: port, GCE_METADATA_HOST: metadata, MODE = 'sdk' } = process.env;
const host = '127.0.0.1';

const overrides = (scope, { document, limit = 100 }) => ({
  containerOverrides: [{
    args: [`--scope=${scope}`, `--document=${document}`],
    env: Object.entries({ SCOPE: scope, LIMIT: limit }).map(([name, value]) => ({ name, value: String(value) })),
  }],
});

async function sdk() {
  const { JobsClient } = (await import('@google-cloud/run')).default.v2;
  const { Compute, GoogleAuth } = await import('google-auth-library');
  const auth = new GoogleAuth({ authClient: new Compute() });
  const client = new JobsClient({ fallback: true, protocol: 'http', apiEndpoint: host, port: Number(port), projectId: 'p', auth });
  return async (scope, body) => {
    const name = 'projects/p/locations/europe-west1/jobs/worker';
    const [operation] = await client.runJob({ name, overrides: overrides(scope, body) });
    return operation.metadata;
  };
}

// A request on a connection of its own.
const call = (options, body) => new Promise((resolve, reject) => {
  const request = http.request({ agent: false, ...options }, (response) => {
    let text = '';
    response.on('data', (chunk) => { text += chunk; });
    response.on('end', () => resolve(JSON.parse(text)));
  });
  request.on('error', reject);
  request.end(body);
});

const sample = async () => async (scope, body) => {
  const [metadataHost, metadataPort] = metadata.split(':');
  const path = '/computeMetadata/v1/instance/service-accounts/default/token';
  const token = await call({ host: metadataHost, port: metadataPort, path, headers: { 'metadata-flavor': 'Google' } });
  const headers = { authorization: `Bearer ${token.access_token}`, 'content-type': 'application/json' };
  const run = '/apis/run.googleapis.com/v1/namespaces/p/jobs/worker:run';
  return call({ host, port, method: 'POST', path: run, headers }, JSON.stringify({ overrides: overrides(scope, body) }));
};

const start = await (MODE === 'sdk' ? sdk() : sample());
const app = express();
app.use(express.json());
app.post('/scopes/:scope/process', async (request, response) => {
  try {
    response.status(202).json(await start(request.params.scope, request.body));
  } catch (error) {
    response.status(502).json({ error: String(error) });
  }
});
app.listen(Number(PORT), host);
