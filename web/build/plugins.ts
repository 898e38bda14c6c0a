// Three small build steps: compressed twins of the assets, the character maps that Chinese PDFs need, the licences of
// what was built in.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import type { Plugin, ResolvedConfig } from 'vite';

const TEXT = /\.(js|mjs|css|html|svg|json|webmanifest)$/;
const SMALLEST = 1024; // bytes; below it a second file saves nothing

/** Writes `.br` and `.gz` beside every text file of the build. */
export function packed(): Plugin {
  let config: ResolvedConfig;
  return {
    name: 'sightline-packed',
    apply: 'build',
    configResolved(resolved) {
      config = resolved;
    },
    closeBundle() {
      const folder = resolve(config.root, config.build.outDir);
      if (!existsSync(folder)) return; // the build itself has failed
      for (const file of files(folder)) {
        const raw = readFileSync(file);
        if (!TEXT.test(file) || raw.length < SMALLEST) continue;
        writeFileSync(`${file}.gz`, gzipSync(raw, { level: 9 }));
        const quality = { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY };
        writeFileSync(`${file}.br`, brotliCompressSync(raw, { params: quality }));
      }
    },
  };
}

/** Copies pdf.js's character maps and stand-in fonts to `pdf/`, where `lib/media/pdf.ts` looks for them. */
export function pdfData(): Plugin {
  return {
    name: 'sightline-pdf-data',
    apply: 'build',
    generateBundle() {
      for (const folder of ['cmaps', 'standard_fonts']) {
        for (const file of files(resolve('node_modules/pdfjs-dist', folder))) {
          const fileName = `pdf/${folder}/${file.slice(file.lastIndexOf('/') + 1)}`;
          this.emitFile({ type: 'asset', fileName, source: readFileSync(file) });
        }
      }
    },
  };
}

/** Writes `licenses.txt`: name, version and licence of every package that ended up in the build. */
export function licenses(): Plugin {
  return {
    name: 'sightline-licenses',
    apply: 'build',
    generateBundle(_, bundle) {
      const modules = Object.values(bundle).flatMap((file) => (file.type === 'chunk' ? file.moduleIds : []));
      const roots = modules.flatMap(
        (id) => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(id)?.[0] ?? [],
      );
      const source = [...new Set([...roots, resolve('node_modules/pdfjs-dist')])]
        .sort()
        .map(licenceOf)
        .join('\n\n');
      this.emitFile({ type: 'asset', fileName: 'licenses.txt', source });
    },
  };
}

function licenceOf(root: string): string {
  const about = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, string>;
  const file = readdirSync(root).find((name) => /^licen[cs]e/i.test(name));
  const text = file ? readFileSync(join(root, file), 'utf8').trim() : '';
  return `---- ${about['name']} ${about['version']} (${about['license']})\n\n${text}\n`;
}

function files(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}
