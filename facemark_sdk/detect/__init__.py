"""Face detection: RetinaFace decoding and the `FaceDetector` around it."""
