// Opens PDFs to show their pages. Loaded only when a PDF is there; knows pdf.js, which nothing else does.
import * as pdfjs from 'pdfjs-dist/legacy/build/pdf.mjs';
import workerUrl from 'pdfjs-dist/legacy/build/pdf.worker.min.mjs?url';

pdfjs.GlobalWorkerOptions.workerSrc = workerUrl;

export interface Pdf {
  pages: number;
  /** A page as a picture whose long side is `side` pixels. */
  draw(page: number, side: number): Promise<HTMLCanvasElement>;
  close(): void;
}

/** A PDF that does not open without a password, or not with this one. */
export class Locked extends Error {}

/** Raises Locked, or something else when the file is no PDF or damaged. */
export async function open(file: Blob, password = ''): Promise<Pdf> {
  const at = (path: string) => new URL(path, document.baseURI).href;
  const document_ = await pdfjs
    .getDocument({
      data: new Uint8Array(await file.arrayBuffer()),
      password,
      cMapUrl: at('pdf/cmaps/'),
      standardFontDataUrl: at('pdf/standard_fonts/'),
      isEvalSupported: false,
      enableXfa: false,
    })
    .promise.catch((error: unknown) => {
      throw error instanceof Error && error.name === 'PasswordException' ? new Locked() : error;
    });
  return {
    pages: document_.numPages,
    async draw(number, side) {
      const page = await document_.getPage(number);
      const natural = page.getViewport({ scale: 1 });
      const viewport = page.getViewport({ scale: side / Math.max(natural.width, natural.height) });
      const canvas = document.createElement('canvas');
      canvas.width = Math.ceil(viewport.width);
      canvas.height = Math.ceil(viewport.height);
      await page.render({ canvas, viewport }).promise;
      page.cleanup();
      return canvas;
    },
    close() {
      void document_.destroy();
    },
  };
}
