"""A program that is built against the package, and run: it loads the model that the package has."""

import os

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, cmake_layout


class RiverhorseTest(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeDeps", "CMakeToolchain", "VirtualRunEnv"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def test(self):
        if can_run(self):
            package = self.dependencies[self.tested_reference_str].package_folder
            model = os.path.join(package, "share", "riverhorse", "models", "default")
            program = os.path.join(self.cpp.build.bindir, "generate")
            self.run(f'{program} {model} "It was late in the evening when" cpu', env="conanrun")
