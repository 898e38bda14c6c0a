// Builds the static page into the Python package. Relative addresses, so that any base path works.
import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';
import { licenses, packed, pdfData } from './build/plugins.ts';

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const API = ['/v1', '/infer', '/infer_stream', '/health', '/version'];
const server = process.env['SIGHTLINE_URL'] ?? 'http://127.0.0.1:8080';

export default defineConfig({
  base: './',
  plugins: [svelte(), pdfData(), licenses(), packed()],
  resolve: {
    alias: { $lib: at('src/lib'), $state: at('src/state'), $components: at('src/components') },
  },
  build: {
    outDir: '../src/sightline/web',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0, // a data: font or script would need a weaker content security policy
    reportCompressedSize: false,
  },
  server: { proxy: Object.fromEntries(API.map((path) => [path, server])) },
  test: { include: ['tests/**/*.test.ts'], environment: 'node' },
});
