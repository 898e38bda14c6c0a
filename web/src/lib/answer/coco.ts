// Writes boxes as a COCO annotation file. Points become keypoints of one.
import { inPixels, type Mark } from './marks';

export interface PictureSize {
  name: string;
  width: number;
  height: number;
}

export function coco(picture: PictureSize, marks: Mark[]): Record<string, unknown> {
  const names = [...new Set(marks.map((mark) => mark.label || 'object'))];
  const pointed = new Set(marks.filter((mark) => mark.point).map((mark) => mark.label || 'object'));
  return {
    info: { description: 'Boxes written by a model through Sightline', version: '1.0' },
    images: [{ id: 1, file_name: picture.name, width: picture.width, height: picture.height }],
    categories: names.map((name, index) => ({
      id: index + 1,
      name,
      supercategory: '',
      ...(pointed.has(name) && { keypoints: ['point'], skeleton: [] }),
    })),
    annotations: marks.map((mark, index) => annotation(mark, index + 1, picture, names)),
  };
}

function annotation(mark: Mark, id: number, picture: PictureSize, names: string[]) {
  const [left, top, right, bottom] = inPixels(mark.box, picture.width, picture.height);
  return {
    id,
    image_id: 1,
    category_id: names.indexOf(mark.label || 'object') + 1,
    bbox: [left, top, right - left, bottom - top],
    area: (right - left) * (bottom - top),
    iscrowd: 0,
    segmentation: [],
    ...(mark.point && { keypoints: [left, top, 2], num_keypoints: 1 }),
    ...(mark.confidence !== undefined && { score: mark.confidence }),
  };
}

/** The marks as they are, with both kinds of coordinates. */
export function marksJson(picture: PictureSize, marks: Mark[]): Record<string, unknown>[] {
  return marks.map((mark) => {
    const pixels = inPixels(mark.box, picture.width, picture.height);
    const shape = mark.point
      ? { point_2d: mark.box.slice(0, 2), point_pixels: pixels.slice(0, 2) }
      : { bbox_2d: mark.box, bbox_pixels: pixels };
    return {
      label: mark.label,
      ...shape,
      ...(mark.confidence !== undefined && { confidence: mark.confidence }),
    };
  });
}
