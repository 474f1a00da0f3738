"""samples/packaging: the vcpkg port and the Conan recipe, run with stand-ins for the functions that they call.

Arguments: CMAKE SOURCE_FOLDER VERSION C_COMPILER CXX_COMPILER [unittest's own].
"""

import fnmatch
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import types
import unittest

CMAKE, SOURCE, VERSION, C_COMPILER, CXX_COMPILER = sys.argv[1:6]
del sys.argv[1:6]
SOURCE = pathlib.Path(SOURCE).resolve()
PORT = SOURCE / "samples/packaging/vcpkg/ports/riverhorse"
RECIPE = SOURCE / "samples/packaging/conan/conanfile.py"

# What the build looks for, and the names of it in vcpkg and in Conan; None: of the system or the compiler. What stands
# only in the Vulkan room and the program is a feature's.
DEPENDENCIES = {"fmt": ("fmt", "fmt"), "nlohmann_json": ("nlohmann-json", "nlohmann_json"),
                "libzip": ("libzip", "libzip"), "libpcre2-8": ("pcre2", "pcre2"), "openblas": ("openblas", "openblas"),
                "libhwy": ("highway", "highway"), "PkgConfig": ("pkgconf", None), "Threads": (None, None),
                "OpenMP": (None, None), "CUDAToolkit": (None, None), "MPI": (None, None)}
VULKAN = {"glslang": "glslang", "SPIRV-Tools-opt": "spirv-tools"}
PROGRAM = {"CLI11": "cli11"}


def cmake_text(*folders):
    """Of all files of CMake in the folders, and of the top one."""
    paths = [SOURCE / "CMakeLists.txt"]
    for folder in folders:
        paths += [path for path in (SOURCE / folder).rglob("*")
                  if path.name == "CMakeLists.txt" or path.suffix == ".cmake"]
    return "\n".join(path.read_text() for path in paths)


def looked_for(text):
    return set(re.findall(r"^\s*find_package\((\S+?)[ )]", text, re.M)) | set(
        re.findall(r"^\s*pkg_check_modules\(\w+ REQUIRED IMPORTED_TARGET ([\w-]+)\)", text, re.M))


def declared(name):
    """An option of the project, or a result of its find_... that may be given."""
    text = cmake_text("src", "shaders")
    return re.search(rf"(option|find_program)\({name}[ )]|set\({name} [^)]*CACHE", text) is not None


class Vcpkg(unittest.TestCase):
    def setUp(self):
        self.manifest = json.loads((PORT / "vcpkg.json").read_text())
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_the_manifest_has_the_form_that_vcpkg_wants(self):
        name = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
        self.assertEqual(set(self.manifest), {"name", "version-semver", "description", "license", "supports",
                                              "dependencies", "features"})
        self.assertEqual(self.manifest["name"], PORT.name)
        self.assertEqual(self.manifest["version-semver"], VERSION)
        self.assertIn(self.manifest["license"] + ", see [LICENSE]", (SOURCE / "README.md").read_text())
        for feature, value in self.manifest["features"].items():
            self.assertRegex(feature, name)
            self.assertEqual(set(value), {"description", "dependencies"})
        for group in (self.manifest, *self.manifest["features"].values()):
            names = []
            for each in group["dependencies"]:
                each = {"name": each} if isinstance(each, str) else each
                self.assertLessEqual(set(each), {"name", "host", "features", "default-features"})
                self.assertIsNotNone(name.fullmatch(each["name"]), each)
                names.append(each["name"])
            self.assertEqual(names, sorted(names))

    def names(self, group):
        return {each if isinstance(each, str) else each["name"] for each in group["dependencies"]}

    def test_every_dependency_of_the_build_is_named(self):
        self.assertEqual(looked_for(cmake_text()), set(DEPENDENCIES))
        self.assertEqual(self.names(self.manifest), {port for port, _ in DEPENDENCIES.values() if port} |
                         {"vcpkg-cmake", "vcpkg-cmake-config"})
        features = self.manifest["features"]
        vulkan = looked_for(cmake_text("src/vulkan", "shaders")) - set(DEPENDENCIES)
        self.assertEqual(vulkan, set(VULKAN))
        self.assertEqual(self.names(features["vulkan"]), set(VULKAN.values()) | {"vkfft", "vulkan-headers"})
        self.assertEqual(looked_for(cmake_text("src/cli")) - set(DEPENDENCIES), set(PROGRAM))
        self.assertEqual(self.names(features["tools"]), set(PROGRAM.values()))

    def run_port(self, *features):
        """The options that the portfile configures with."""
        packages, installed, host = (self.folder / name for name in ("packages", "installed", "host"))
        for path in (host / "tools/glslang/glslang", installed / "include/VkFFT/vkFFT.h",
                     packages / "lib/libriverhorse.so.0", packages / "lib/libriverhorse.a",
                     packages / "debug/include/x"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        (host / "tools/glslang/glslang").chmod(0o755)
        script = self.folder / "run.cmake"
        script.write_text(f"""
            cmake_minimum_required(VERSION 3.25)
            function(vcpkg_check_features)
              cmake_parse_arguments(PARSE_ARGV 0 arg "" "OUT_FEATURE_OPTIONS" "FEATURES")
              set(options "")
              while(arg_FEATURES)
                list(POP_FRONT arg_FEATURES feature option)
                message("feature ${{feature}}")
                if(feature IN_LIST FEATURES)
                  list(APPEND options -D${{option}}=ON)
                else()
                  list(APPEND options -D${{option}}=OFF)
                endif()
              endwhile()
              set(${{arg_OUT_FEATURE_OPTIONS}} ${{options}} PARENT_SCOPE)
            endfunction()
            function(vcpkg_cmake_configure)
              cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
              message("source ${{arg_SOURCE_PATH}}")
              foreach(option IN LISTS arg_OPTIONS)
                message("option ${{option}}")
              endforeach()
              if(arg_UNPARSED_ARGUMENTS)
                message(FATAL_ERROR "${{arg_UNPARSED_ARGUMENTS}}")
              endif()
            endfunction()
            foreach(name vcpkg_cmake_install vcpkg_cmake_config_fixup vcpkg_fixup_pkgconfig vcpkg_copy_tools
                         vcpkg_install_copyright)
              cmake_language(EVAL CODE "function(${{name}})\\n message(\\"call ${{name}} \\${{ARGN}}\\")\\nendfunction()")
            endforeach()
            set(CURRENT_PORT_DIR "{PORT}")
            set(CURRENT_PACKAGES_DIR "{packages}")
            set(CURRENT_INSTALLED_DIR "{installed}")
            set(CURRENT_HOST_INSTALLED_DIR "{host}")
            set(VCPKG_LIBRARY_LINKAGE static)
            set(PORT riverhorse)
            set(FEATURES core {" ".join(features)})
            include("{PORT}/portfile.cmake")
        """)
        done = subprocess.run([CMAKE, "-P", script], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [line.split(" ", 1) for line in done.stderr.splitlines()]
        self.assertEqual([value for kind, value in lines if kind == "source"], [str(SOURCE)])
        self.assertEqual({value for kind, value in lines if kind == "feature"}, set(self.manifest["features"]))
        self.calls = [value for kind, value in lines if kind == "call"]
        self.packages = packages
        return dict(value.removeprefix("-D").split("=", 1) for kind, value in lines if kind == "option")

    def test_the_options_exist_and_what_is_installed_is_put_right(self):
        options = self.run_port()
        self.assertEqual({name for name in options if not declared(name)}, {"PKG_CONFIG_EXECUTABLE"})
        on = {name for name, value in options.items() if value == "ON"}
        self.assertEqual(on, {"RIVERHORSE_INSTALL"})
        self.assertFalse((self.packages / "lib/libriverhorse.so.0").exists())
        self.assertTrue((self.packages / "lib/libriverhorse.a").exists())
        self.assertFalse((self.packages / "debug/include").exists())
        self.assertTrue((self.packages / "share/riverhorse/usage").exists())
        self.assertIn(f"vcpkg_install_copyright FILE_LIST;{SOURCE}/LICENSE", self.calls)
        install = (SOURCE / "src/api/install.cmake").read_text()
        self.assertIn("${CMAKE_INSTALL_LIBDIR}/cmake/riverhorse", install)
        self.assertIn("vcpkg_cmake_config_fixup CONFIG_PATH;lib/cmake/riverhorse", self.calls)
        self.assertFalse(any("vcpkg_copy_tools" in each for each in self.calls))

    def test_features(self):
        options = self.run_port("tools", "vulkan")
        self.assertEqual((options["RIVERHORSE_BUILD_PROGRAM"], options["RIVERHORSE_VULKAN"]), ("ON", "ON"))
        self.assertEqual(options["GLSLANG_VALIDATOR"], str(self.folder / "host/tools/glslang/glslang"))
        self.assertEqual(options["RIVERHORSE_VKFFT_INCLUDE_DIR"], str(self.folder / "installed/include/VkFFT"))
        self.assertEqual({name for name in options if not declared(name)}, {"PKG_CONFIG_EXECUTABLE"})
        self.assertIn("vcpkg_copy_tools TOOL_NAMES;riverhorse;AUTO_CLEAN", self.calls)

    def test_usage_names_the_package_and_its_target(self):
        usage = (PORT / "usage").read_text()
        consumer = (SOURCE / "tests/consumer/find_package/CMakeLists.txt").read_text()
        self.assertIn("riverhorse::riverhorse", consumer)
        for part in ("find_package(riverhorse CONFIG REQUIRED)", "riverhorse::riverhorse"):
            self.assertIn(part, usage)


class Conan(unittest.TestCase):
    """The recipe with a Conan of its own: what it asks for is written down."""

    @classmethod
    def setUpClass(cls):
        def module(name, **members):
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(members)

        class InvalidConfiguration(Exception):
            pass

        def copy(conanfile, pattern, src, dst):
            for path in pathlib.Path(src).rglob("*"):
                relative = path.relative_to(src)
                if path.is_file() and fnmatch.fnmatch(str(relative), pattern):
                    target = pathlib.Path(dst) / relative
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)

        class Generator:
            def __init__(self, conanfile):
                self.cache_variables, self.properties = {}, {}
                conanfile.used[type(self).__name__] = self

            def set_property(self, dependency, name, value):
                self.properties[dependency, name] = value

            def generate(self):
                self.generated = True

        for name in ("conan.tools", "conan.tools.system"):
            module(name)
        module("conan", ConanFile=object)
        module("conan.errors", ConanInvalidConfiguration=InvalidConfiguration)
        module("conan.tools.build", check_min_cppstd=lambda conanfile, standard: None)
        module("conan.tools.cmake", CMake=None, cmake_layout=None, CMakeDeps=type("CMakeDeps", (Generator,), {}),
               CMakeToolchain=type("CMakeToolchain", (Generator,), {}))
        module("conan.tools.files", copy=copy, rmdir=None)
        module("conan.tools.gnu", PkgConfigDeps=type("PkgConfigDeps", (Generator,), {}))
        module("conan.tools.system.package_manager", Apt=None)
        cls.error = InvalidConfiguration
        spec = importlib.util.spec_from_file_location("recipe", RECIPE)
        recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(recipe)
        cls.recipe = recipe.RiverhorseRecipe

    def make(self, **options):
        recipe = self.recipe()
        recipe.used, recipe.required = {}, []
        recipe.requires = recipe.required.append
        recipe.recipe_folder = str(RECIPE.parent)
        recipe.options = types.SimpleNamespace(**(self.recipe.default_options | options))
        recipe.settings = types.SimpleNamespace(os="Linux", arch="x86_64")
        return recipe

    def test_the_version_is_the_project_s(self):
        self.assertEqual((self.recipe.name, self.recipe.version), ("riverhorse", VERSION))

    def test_every_dependency_of_the_build_is_required(self):
        recipe = self.make()
        recipe.requirements()
        self.assertEqual({each.split("/")[0] for each in recipe.required},
                         {package for _, package in DEPENDENCIES.values() if package})

    def test_libraries_of_the_system_are_linked_where_no_package_is(self):
        def libraries(*packaged, **options):
            recipe = self.make(**options)
            recipe.cpp_info = types.SimpleNamespace(system_libs=[], set_property=lambda *_: None)
            found = {name: types.SimpleNamespace(ref=types.SimpleNamespace(name=name)) for name in packaged}
            recipe.dependencies = types.SimpleNamespace(filter=lambda _: found)
            recipe.package_info()
            return set(recipe.cpp_info.system_libs)

        recipe = self.make()
        recipe.requirements()
        required = [each.split("/")[0] for each in recipe.required]
        own = {"pthread", "dl", "m"}
        self.assertEqual(libraries(*required), own)
        self.assertEqual(libraries("fmt", "libzip"), own | {"hwy", "openblas", "pcre2-8"})
        self.assertEqual(len(libraries()), len(own) + len(required) - 1, "all but nlohmann_json, which is headers")
        self.assertEqual(libraries(shared=True), set())

    def test_vulkan_is_for_a_shared_library(self):
        self.make().validate()
        self.make(shared=True, with_vulkan=True).validate()
        with self.assertRaises(self.error):
            self.make(with_vulkan=True).validate()

    def test_the_options_exist_and_the_exported_sources_are_enough(self):
        recipe = self.make()
        recipe.generate()
        variables = recipe.used["CMakeToolchain"].cache_variables
        self.assertTrue(all(each.generated for each in recipe.used.values()))
        for name in variables:
            self.assertTrue(declared(name), name)
        with tempfile.TemporaryDirectory() as name:
            recipe.export_sources_folder = name
            recipe.export_sources()
            options = [f"-D{key}={value if isinstance(value, str) else ('OFF', 'ON')[value]}"
                       for key, value in variables.items()]
            done = subprocess.run([CMAKE, "-S", name, "-B", name + "/build", f"-DCMAKE_C_COMPILER={C_COMPILER}",
                                   f"-DCMAKE_CXX_COMPILER={CXX_COMPILER}", *options], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
