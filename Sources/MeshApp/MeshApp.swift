// MeshApp
