"""Buildings as files: glTF, which way is up, triangles with textures and labels."""
