"""Riverhorse as a Conan 2 package, of the sources that this file lies in: conan create samples/packaging/conan."""

import os

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, rmdir
from conan.tools.gnu import PkgConfigDeps
from conan.tools.system.package_manager import Apt

required_conan_version = ">=2.8"


class RiverhorseRecipe(ConanFile):
    name = "riverhorse"
    version = "0.1.0"
    license = "Apache-2.0"
    description = "H3 state-space language models: inference inside a program, and training"
    topics = ("language-model", "state-space-model", "inference", "vulkan")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "with_vulkan": [True, False]}
    default_options = {"shared": False, "with_vulkan": False}

    def export_sources(self):
        root = os.path.join(self.recipe_folder, "..", "..", "..")
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "src/*", "shaders/*",
                        "samples/models/default/*", "samples/python/*.py", "samples/csharp/*.cs"):
            copy(self, pattern, src=root, dst=self.export_sources_folder)

    def validate(self):
        if str(self.settings.os) != "Linux" or str(self.settings.arch) != "x86_64":
            raise ConanInvalidConfiguration("riverhorse was tried on Linux on x86_64 only")
        check_min_cppstd(self, 20)
        if self.options.with_vulkan and not self.options.shared:
            raise ConanInvalidConfiguration("with_vulkan needs shared=True: who links the static library would have to "
                                            "link the system's glslang, of which Conan knows nothing")

    def requirements(self):
        self.requires("fmt/[>=9 <12]")
        self.requires("highway/[>=1.0.3 <2]")
        self.requires("libzip/[>=1.7 <2]")
        self.requires("nlohmann_json/[>=3.11 <4]")
        self.requires("openblas/[>=0.3.20 <0.4]")
        self.requires("pcre2/[>=10.40 <11]")

    def system_requirements(self):
        # VkFFT is not in Conan's registry, and VkFFT needs a glslang that fits: the system's own go together.
        if self.options.with_vulkan:
            Apt(self).install(["libvulkan-dev", "libvkfft-dev", "glslang-dev", "glslang-tools", "spirv-tools"])

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({
            "RIVERHORSE_BUILD_PROGRAM": False,
            "RIVERHORSE_BUILD_TESTS": False,
            "RIVERHORSE_BUILD_SAMPLES": False,
            "RIVERHORSE_INSTALL": True,
            "RIVERHORSE_VULKAN": bool(self.options.with_vulkan),
            "RIVERHORSE_CUDA": "OFF",
            "RIVERHORSE_MPI": "OFF",
        })
        toolchain.generate()
        CMakeDeps(self).generate()
        modules = PkgConfigDeps(self)
        modules.set_property("openblas", "pkg_config_name", "openblas")
        modules.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))
        for folder in ("cmake", "pkgconfig"):  # Conan makes these for whoever uses the package
            rmdir(self, os.path.join(self.package_folder, "lib", folder))

    def package_info(self):
        self.cpp_info.libs = ["riverhorse"]
        self.cpp_info.set_property("cmake_file_name", "riverhorse")
        self.cpp_info.set_property("cmake_target_name", "riverhorse::riverhorse")
        self.cpp_info.set_property("pkg_config_name", "riverhorse")
        if not self.options.shared:
            self.cpp_info.defines = ["RIVERHORSE_STATIC"]
            # What the profile takes from the system (platform_requires) has no package that would be linked.
            direct = self.dependencies.filter({"build": False, "direct": True})
            packaged = {each.ref.name for each in direct.values()}
            libraries = {"fmt": "fmt", "highway": "hwy", "libzip": "zip", "openblas": "openblas", "pcre2": "pcre2-8"}
            self.cpp_info.system_libs = [library for name, library in libraries.items() if name not in packaged]
            self.cpp_info.system_libs += ["pthread", "dl", "m"]
            self.cpp_info.exelinkflags = ["-fopenmp"]
            self.cpp_info.sharedlinkflags = ["-fopenmp"]
