// graphile-worker over jobs that do nothing: waits in the database first, then all done as fast as it goes.
// Prints a line of JSON.
import { makeWorkerUtils, run } from 'graphile-worker';

const connectionString = process.env.DATABASE_URL;
const count = Number(process.env.JOBS);

const utils = await makeWorkerUtils({ connectionString });
await utils.migrate();
await utils.withPgClient((client) =>
  client.query(
    `SELECT count(*) FROM generate_series(1, $1::int) n, LATERAL graphile_worker.add_job('nothing', json_build_object('n', n))`,
    [count],
  ),
);
await utils.release();

let done = 0;
let finish;
const finished = new Promise((resolve) => (finish = resolve));
const taskList = {
  nothing: async () => {
    done += 1;
    if (done === count) finish();
  },
};
const began = process.hrtime.bigint();
const runner = await run({
  connectionString,
  taskList,
  concurrency: 24,
  noHandleSignals: true,
  preset: {
    worker: {
      maxPoolSize: 25,
      concurrentJobs: 24,
      localQueue: { size: 500 },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  },
});
await finished;
const seconds = Number(process.hrtime.bigint() - began) / 1e9;
await runner.stop();
console.log(JSON.stringify({ jobs: count, per_s: Math.round(count / seconds) }));
