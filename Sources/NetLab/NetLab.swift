// NetLab
