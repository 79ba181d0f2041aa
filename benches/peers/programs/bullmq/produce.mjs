// 64 callers queue mails with `add`, each waiting for its answer before the next.
import { createInterface } from 'node:readline';
import { Queue } from 'bullmq';

const CALLERS = 64;
const text = 'All work and no play makes a dull mail.\r\n'.repeat(50).slice(0, 2048);
const mail = { from: 'bench@example.com', to: 'user@example.org', subject: 'A benchmark', text };

const queue = new Queue('mail', {
  connection: { host: '127.0.0.1', port: Number(process.env.REDIS_PORT) },
  defaultJobOptions: { removeOnComplete: true },
});
queue.on('error', (error) => console.error(error.message));
await queue.waitUntilReady();
console.log('ready');

for await (const line of createInterface({ input: process.stdin })) {
  const count = Number(line);
  const times = [];
  let begun = 0;
  const caller = async () => {
    while (begun++ < count) {
      const started = performance.now();
      await queue.add('mail', mail);
      times.push(performance.now() - started);
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: CALLERS }, caller));
  const seconds = (performance.now() - started) / 1000;
  times.sort((a, b) => a - b);
  const at = (share) => times[Math.floor((times.length - 1) * share)];
  console.log(JSON.stringify({ per_s: count / seconds, p50_ms: at(0.5), p99_ms: at(0.99) }));
}
process.exit(0);
