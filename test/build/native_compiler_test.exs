defmodule Leash.Build.NativeCompilerTest do
  # Serial: Mix in other VMs takes both cores, and tests that measure times run beside async ones.
  use ExUnit.Case, async: false

  @moduletag :slow

  alias Leash.Build.Sandbox
  alias Mix.Tasks.Compile.LeashNative
  alias Mix.Tasks.Compile.LeashNative.{Cargo, Target}

  @moduletag :build
  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  # Mix loads these only when it needs them.
  @compile {:no_warn_undefined, [Cargo, Target]}
  setup_all do
    for part <- ~w(cargo target),
        do: Code.require_file("mix/leash_native/#{part}.exs", Sandbox.root())

    :ok
  end

  defp priv(directory), do: Path.join(directory, "_build/prod/lib/leash/priv")

  defp stat!(directory, name), do: File.stat!(Path.join(priv(directory), name))

  defp sentence(output) do
    assert [_all, sentence] = Regex.run(~r/^\*\* \(Mix\) (.*)$/m, output), output
    refute output =~ "\n    ", "a stack trace beside the sentence:\n" <> output
    sentence
  end

  test "cargo builds at first, is not called without a change, and is called after one", %{
    tmp_dir: tmp
  } do
    Sandbox.skeleton!(tmp)
    env = Sandbox.stub_cargo!(tmp, Sandbox.artefacts())

    Sandbox.mix!(tmp, ["compile"], env)
    assert ["--version" | builds] = Sandbox.cargo_calls(tmp)
    # Both at once, so in any order.
    assert [shim, release] = Enum.sort_by(builds, &(&1 =~ "leash-nif"))
    assert release =~ "--release -p leash-nif -p leash-cli"
    assert shim =~ "--profile shim -p leash-shim --features freestanding"
    assert Bitwise.band(stat!(tmp, "leash").mode, 0o777) == 0o755

    for name <- ~w(leash_nif.so leash-shim) do
      assert File.read!(Path.join(priv(tmp), name)) ==
               File.read!(Path.join(Sandbox.artefacts(), name))

      assert Bitwise.band(stat!(tmp, name).mode, 0o777) == 0o755
    end

    Sandbox.mix!(tmp, ["compile"], env)
    assert Sandbox.cargo_calls(tmp) == []

    File.touch!(Sandbox.source(tmp))
    Sandbox.mix!(tmp, ["compile"], env)
    assert Sandbox.cargo_calls(tmp) == [], "only its time changed"

    File.write!(Sandbox.source(tmp), "//! A sourcE.\n")
    before = stat!(tmp, "leash_nif.so")
    Sandbox.mix!(tmp, ["compile"], env)
    assert length(Sandbox.cargo_calls(tmp)) == 3

    assert stat!(tmp, "leash_nif.so").inode == before.inode,
           "the same contents were installed again"

    File.rm!(Path.join(priv(tmp), "leash-shim"))
    Sandbox.mix!(tmp, ["compile"], env)
    assert length(Sandbox.cargo_calls(tmp)) == 3, "an artefact that somebody removed comes back"

    File.write!(Path.join(tmp, "_build/prod/lib/leash/.mix/compile.leash_native"), "cut o")
    Sandbox.mix!(tmp, ["compile"], env)
    assert length(Sandbox.cargo_calls(tmp)) == 3, "a damaged manifest costs a call"
  end

  test "another artefact takes the place of the old one by rename and leaves nothing behind", %{
    tmp_dir: tmp
  } do
    Sandbox.skeleton!(tmp)
    env = Sandbox.stub_cargo!(tmp, Sandbox.artefacts())
    Sandbox.mix!(tmp, ["compile"], env)
    before = stat!(tmp, "leash_nif.so")
    {:ok, mapped} = File.open(Path.join(priv(tmp), "leash_nif.so"), [:read, :binary])

    File.write!(Path.join(tmp, "stub-bin/libleash_nif.so"), "another library")
    File.write!(Sandbox.source(tmp), "//! Another source.\n")
    Sandbox.mix!(tmp, ["compile"], env)

    assert File.read!(Path.join(priv(tmp), "leash_nif.so")) == "another library"
    assert stat!(tmp, "leash_nif.so").inode != before.inode
    assert IO.binread(mapped, 4) == <<0x7F, "ELF">>, "who has the old one still has it whole"
    assert Enum.sort(File.ls!(priv(tmp))) == ["leash", "leash-shim", "leash_nif.so"]
  end

  test "mix clean takes the artefacts away", %{tmp_dir: tmp} do
    Sandbox.skeleton!(tmp)
    env = Sandbox.stub_cargo!(tmp, Sandbox.artefacts())
    Sandbox.mix!(tmp, ["compile"], env)
    Sandbox.mix!(tmp, ["clean"], env)

    for name <- ~w(leash leash-shim leash_nif.so),
        do: refute(File.exists?(Path.join(priv(tmp), name)))

    Sandbox.mix!(tmp, ["compile"], env)
    assert File.exists?(Path.join(priv(tmp), "leash_nif.so"))
  end

  test "MIX_BUILD_PATH decides where everything goes", %{tmp_dir: tmp} do
    Sandbox.skeleton!(tmp)
    build = Path.join(tmp, "elsewhere")
    env = [{"MIX_BUILD_PATH", build} | Sandbox.stub_cargo!(tmp, Sandbox.artefacts())]
    Sandbox.mix!(tmp, ["compile"], env)
    assert File.exists?(Path.join(build, "lib/leash/priv/leash-shim"))
    refute File.exists?(Path.join(tmp, "_build"))
  end

  test "a missing cargo is one sentence that says what to do", %{tmp_dir: tmp} do
    Sandbox.skeleton!(tmp)
    {output, status} = Sandbox.mix(tmp, ["compile"], Sandbox.path_without_cargo!(tmp))
    assert status != 0

    assert sentence(output) =~
             ~r/^Leash is built with cargo, which is not on the PATH: install Rust [\d.]+ or newer .* LEASH_PREBUILT .*\.$/
  end

  test "a cargo that is too old is one sentence that says what to do", %{tmp_dir: tmp} do
    Sandbox.skeleton!(tmp)
    env = Sandbox.stub_cargo!(tmp, Sandbox.artefacts(), "1.60.9")
    {output, status} = Sandbox.mix(tmp, ["compile"], env)
    assert status != 0

    assert sentence(output) =~
             ~r/^Leash needs Rust [\d.]+ or newer and cargo here is 1\.60: update it .* LEASH_PREBUILT .*\.$/
  end

  test "versions of cargo compare as numbers, and one that does not run is named" do
    assert Cargo.problem({"cargo 1.91.0 (abc 2025-01-01)\n", 0}, "1.91") == nil
    assert Cargo.problem({"cargo 1.100.0-nightly\n", 0}, "1.91") == nil
    assert Cargo.problem({"info: syncing\ncargo 2.0.0\n", 0}, "1.91.3") == nil
    assert Cargo.problem({"cargo 1.9.0\n", 0}, "1.91") =~ "cargo here is 1.9:"

    assert Cargo.problem({"error: no toolchain\nmore\n", 1}, "1.91") =~
             "it says: error: no toolchain)"

    assert Cargo.problem({"", 0}, "1.91") =~ "it says: nothing)"
  end

  test "another processor is one sentence that says what to do" do
    assert Target.host_problem("x86_64-pc-linux-gnu") == nil
    assert Target.host_problem("aarch64-unknown-linux-musl") == nil

    assert Target.host_problem("riscv64-linux-gnu") =~
             ~r/^Leash runs on x86-64 and aarch64 .*\.$/
  end

  test "another system compiles without the native part, and says so once", %{tmp_dir: tmp_dir} do
    Sandbox.dependant!(tmp_dir, "defmodule Kennel do\nend\n")
    File.mkdir_p!(Path.join(tmp_dir, "config"))

    File.write!(Path.join(tmp_dir, "config/config.exs"), """
    import Config
    config :leash, os_type: {:unix, :darwin}
    """)

    # There is no cargo on this PATH, so nothing can be built.
    path = Enum.map_join(~w(mix erl sh env), ":", &Path.dirname(System.find_executable(&1)))
    first = Sandbox.mix!(tmp_dir, ["compile"], [{"PATH", path}])
    sentence = LeashNative.without_native({:unix, :darwin})
    assert first =~ sentence
    assert first =~ "Generated kennel app"
    refute File.exists?(Path.join(priv(tmp_dir), "leash_nif.so"))

    again = Sandbox.mix!(tmp_dir, ["deps.compile", "leash"], [{"PATH", path}])
    refute again =~ "Leash runs on Linux"
  end
end
