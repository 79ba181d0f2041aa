// A worker that sends each job's mail with nodemailer's pool.
import { Worker } from 'bullmq';
import nodemailer from 'nodemailer';

const AT_ONCE = 16;

const transport = nodemailer.createTransport({
  host: '127.0.0.1',
  port: Number(process.env.SINK_PORT),
  secure: false,
  ignoreTLS: true,
  pool: true,
  maxConnections: AT_ONCE,
  maxMessages: Infinity,
});
const worker = new Worker('mail', (job) => transport.sendMail(job.data), {
  connection: { host: '127.0.0.1', port: Number(process.env.REDIS_PORT) },
  concurrency: AT_ONCE,
});
worker.on('failed', (_, error) => console.error('failed', error.message));
worker.on('error', (error) => console.error(error.message));
