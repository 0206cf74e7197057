defmodule Leash.Build.PrebuiltTest do
  # Serial: Mix in other VMs takes both cores, and tests that measure times run beside async ones.
  use ExUnit.Case, async: false

  @moduletag :slow

  alias Leash.Build.Sandbox

  @moduletag :build
  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  @needed ~w(leash-shim leash_nif.so)
  @all ["leash" | @needed]

  setup %{tmp_dir: tmp} do
    Sandbox.skeleton!(tmp)
    %{env: Sandbox.path_without_cargo!(tmp)}
  end

  defp priv(directory, env \\ "prod"), do: Path.join(directory, "_build/#{env}/lib/leash/priv")

  defp installed(directory, env \\ "prod"), do: Enum.sort(File.ls!(priv(directory, env)))

  defp directory!(path) do
    File.mkdir_p!(path)

    for name <- @needed,
        do: File.cp!(Path.join(Sandbox.artefacts(), name), Path.join(path, name))

    Sandbox.command!(Sandbox.artefacts(), Path.join(path, "leash"))
    path
  end

  # The sentence with which a compilation fails that must have installed nothing.
  defp refusal(directory, env) do
    sentence = Sandbox.refusal!(directory, env)
    refute File.exists?(priv(directory))
    sentence
  end

  test "a directory needs no cargo, and the command may be missing", %{tmp_dir: tmp, env: env} do
    prebuilt = directory!(Path.join(tmp, "prebuilt"))
    env = [{"LEASH_PREBUILT", prebuilt} | env]
    refute Sandbox.mix!(tmp, ["compile"], env) =~ "has no file"
    assert installed(tmp) == @all
    mode = File.stat!(Path.join(priv(tmp), "leash")).mode
    assert Bitwise.band(mode, 0o777) == 0o755

    File.rm!(Path.join(prebuilt, "leash"))

    assert Sandbox.mix!(tmp, ["compile"], env) =~
             "LEASH_PREBUILT is #{prebuilt}, which has no file leash: Leash works without that command"

    assert installed(tmp) == ["leash-shim", "leash_nif.so"], "an old one stays"
    assert Sandbox.mix!(tmp, ["compile"], env) == ""
  end

  test "an archive is taken by its path, or from its directory by its name", %{
    tmp_dir: tmp,
    env: env
  } do
    File.mkdir!(Path.join(tmp, "archives"))
    archive = Sandbox.archive!(Path.join([tmp, "archives", Sandbox.archive_name()]))

    for place <- [archive, Path.dirname(archive)] do
      Sandbox.mix!(tmp, ["clean"], env)
      output = Sandbox.mix!(tmp, ["compile"], [{"LEASH_PREBUILT", place} | env])
      assert output =~ "LEASH_PREBUILT is #{archive}: checked and kept"
      assert installed(tmp) == @all

      for name <- @needed do
        assert File.read!(Path.join(priv(tmp), name)) ==
                 File.read!(Path.join(Sandbox.artefacts(), name))
      end
    end
  end

  test "the next commands need no variable, in another environment either", %{
    tmp_dir: tmp,
    env: env
  } do
    prebuilt = directory!(Path.join(tmp, "prebuilt"))
    Sandbox.mix!(tmp, ["compile"], [{"LEASH_PREBUILT", prebuilt} | env])
    File.rm_rf!(prebuilt)
    assert Sandbox.mix!(tmp, ["compile"], env) == ""
    Sandbox.mix!(tmp, ["compile"], [{"MIX_ENV", "dev"} | env])
    assert installed(tmp, "dev") == @all
    File.rm!(Path.join(priv(tmp), "leash-shim"))
    Sandbox.mix!(tmp, ["compile"], env)
    assert installed(tmp) == @all, "an artefact that was removed does not come back"

    # Back to cargo. A port cannot set an empty variable, and a shell can.
    stub = Sandbox.stub_cargo!(tmp, Sandbox.artefacts())
    script = "LEASH_PREBUILT= exec mix compile"
    {_output, 0} = System.cmd("sh", ["-c", script], cd: tmp, env: [{"MIX_ENV", "prod"} | stub])
    assert length(Sandbox.cargo_calls(tmp)) == 3
    Sandbox.mix!(tmp, ["compile", "--force"], stub)
    assert length(Sandbox.cargo_calls(tmp)) == 3, "what was to be forgotten is still taken"
  end

  test "a relative path is relative to where the user stands, also in a dependency", %{
    tmp_dir: tmp,
    env: env
  } do
    directory!(Path.join(tmp, "app/prebuilt"))
    app = Path.join(tmp, "app")
    File.mkdir_p!(Path.join(app, "lib"))

    File.write!(Path.join(app, "mix.exs"), """
    defmodule Kennel.MixProject do
      use Mix.Project
      def project, do: [app: :kennel, version: "1.0.0", deps: [{:leash, path: ".."}]]
    end
    """)

    # As a shell has it, and as a program leaves it that changes the directory by itself.
    for pwd <- [app, "/"] do
      File.rm_rf!(Path.join(app, "_build"))
      Sandbox.mix!(app, ["compile"], [{"LEASH_PREBUILT", "prebuilt"}, {"PWD", pwd} | env])
      assert installed(app) == @all
    end
  end

  test "a directory without the files is one sentence", %{tmp_dir: tmp, env: env} do
    assert refusal(tmp, [{"LEASH_PREBUILT", tmp} | env]) ==
             "LEASH_PREBUILT is #{tmp}, which has no file leash_nif.so: put leash_nif.so and " <>
               "leash-shim there, or unset LEASH_PREBUILT to build them with cargo."

    missing = Path.join(tmp, "missing")

    assert refusal(tmp, [{"LEASH_PREBUILT", missing} | env]) =~
             ~r/^LEASH_PREBUILT is #{missing}, which cannot be read \(no such file or directory\): .*\.$/
  end

  test "an archive that was cut off is one sentence", %{tmp_dir: tmp, env: env} do
    archive = Sandbox.archive!(Path.join(tmp, "archive.tar.gz"))
    File.write!(archive, binary_part(File.read!(archive), 0, 100_000))

    assert refusal(tmp, [{"LEASH_PREBUILT", archive} | env]) ==
             "LEASH_PREBUILT is #{archive}, which is no whole .tar.gz: copy or download it again."
  end

  test "files for another machine are refused by their ELF header", %{tmp_dir: tmp, env: env} do
    prebuilt = directory!(Path.join(tmp, "prebuilt"))
    shim = Path.join(prebuilt, "leash-shim")
    <<head::binary-18, machine::little-16, rest::binary>> = File.read!(shim)

    {other, its, ours} =
      if machine == 62, do: {183, "aarch64", "x86_64"}, else: {62, "x86_64", "aarch64"}

    File.write!(shim, [head, <<other::little-16>>, rest])

    assert refusal(tmp, [{"LEASH_PREBUILT", prebuilt} | env]) =~
             ~r/ whose leash-shim is for #{its} and this build is for #{ours}-unknown-linux-\w+: take leash-/

    File.write!(shim, [head, <<243::little-16>>, rest])

    assert refusal(tmp, [{"LEASH_PREBUILT", prebuilt} | env]) =~
             "is for a machine that Leash does not run on (e_machine 243)"

    File.write!(shim, "#!/bin/sh\n")

    assert refusal(tmp, [{"LEASH_PREBUILT", prebuilt} | env]) =~
             "whose leash-shim is no ELF file of 64 bits"
  end

  test "files of another version, protocol or C library are refused", %{tmp_dir: tmp, env: env} do
    prebuilt = directory!(Path.join(tmp, "prebuilt"))
    nif = Path.join(prebuilt, "leash_nif.so")
    contents = File.read!(nif)
    env = [{"LEASH_PREBUILT", prebuilt} | env]
    version = to_string(Application.spec(:leash, :vsn))
    [mark] = Regex.run(~r/leash-nif #{version} \(protocol \d+\)/, contents)

    for {old, new, said} <- [
          {mark, String.replace(mark, version, "9.9.9"), "is of Leash 9.9.9 and this is Leash"},
          {mark, String.replace(mark, ~r/\d+\)/, "0)"), "has protocol 0 and this Leash has"},
          {"leash-nif", "sheep-nif", "does not say of which Leash it is"}
        ] do
      File.write!(nif, String.replace(contents, old, new))
      assert refusal(tmp, env) =~ "whose leash_nif.so #{said}"
    end

    [_all, machine, libc] = Regex.run(~r/-(\w+)-unknown-linux-(\w+)\.tar/, Sandbox.archive_name())
    [other] = ~w(gnu musl) -- [libc]
    File.write!(nif, contents)
    env = [{"CARGO_BUILD_TARGET", "#{machine}-unknown-linux-#{other}"} | env]
    assert refusal(tmp, env) =~ "whose leash_nif.so is linked against #{libc} and this build is"
  end

  @tag needs: :root
  test "a full disk is one sentence, and leaves nothing half written", %{tmp_dir: tmp, env: env} do
    prebuilt = directory!(Path.join(tmp, "prebuilt"))
    kept = Path.join(tmp, "_build/leash-prebuilt")
    File.mkdir_p!(kept)

    script = ~S"""
    mount -t tmpfs -o size=200k tmpfs "$1"
    mix compile
    echo "status $?"
    ls "$1"
    """

    {output, 0} =
      System.cmd("unshare", ["--mount", "sh", "-c", script, "sh", kept],
        cd: tmp,
        env: [{"LEASH_PREBUILT", prebuilt}, {"MIX_ENV", "prod"} | env],
        stderr_to_stdout: true
      )

    assert output =~
             ~r/^\*\* \(Mix\) #{kept}\/leash_nif.so cannot be written: no space left on device\.$/m

    assert output =~ ~r/^status 1\n\z/m, "files are left:\n" <> output
    Sandbox.mix!(tmp, ["compile"], [{"LEASH_PREBUILT", prebuilt} | env])
    assert installed(tmp) == @all
  end
end
