defmodule Mix.Tasks.Compile.LeashNative.Cargo do
  # Builds with cargo. Only a machine without built files needs this module.
  @moduledoc false

  @root Path.expand("../..", __DIR__)

  @doc "Returns the artefacts by name, built in `target_dir`."
  @spec build(Path.t(), String.t()) :: [{String.t(), Path.t()}]
  def build(target_dir, needed) do
    cargo = System.find_executable("cargo")

    if cargo == nil do
      Mix.raise(
        "Leash is built with cargo, which is not on the PATH: install Rust #{needed} or newer " <>
          "(Debian 13: `apt install cargo`, else https://rustup.rs), or " <> without_cargo()
      )
    end

    if sentence = problem(version(cargo), needed), do: Mix.raise(sentence)

    # NIF and command in one call, which compiles only once what the two have in common. The shim
    # beside them: it has a profile of its own, and cargo locks each profile's directory alone.
    [release, shim] =
      [
        ~w(--release -p leash-nif -p leash-cli),
        ~w(--profile shim -p leash-shim --features freestanding)
      ]
      |> Enum.map(&Task.async(fn -> call(cargo, target_dir, &1) end))
      |> Task.await_many(:infinity)
      |> Enum.map(&messages/1)

    [
      {"leash_nif.so", artefact(release, ~r/"([^"]*libleash_nif\.so)"/)},
      {"leash", artefact(release, ~r/"executable":"([^"]*\/leash)"/)},
      {"leash-shim", artefact(shim, ~r/"executable":"([^"]*leash-shim)"/)}
    ]
  end

  @doc "Returns why this output of `cargo --version` will not do, as one sentence, or `nil`."
  @spec problem({String.t(), non_neg_integer()}, String.t()) :: String.t() | nil
  def problem({output, 0}, needed) do
    case Regex.run(~r/^cargo (\d+)\.(\d+)/m, output) do
      [_all, major, minor] ->
        found = {String.to_integer(major), String.to_integer(minor)}

        if found < minimum(needed) do
          "Leash needs Rust #{needed} or newer and cargo here is #{major}.#{minor}: update it " <>
            "(`rustup update stable`), or " <> without_cargo()
        end

      nil ->
        unusable(output)
    end
  end

  def problem({output, _status}, _needed), do: unusable(output)

  defp unusable(output) do
    said = output |> String.split("\n", trim: true) |> List.first("nothing")

    "Leash is built with cargo, and `cargo --version` fails here (it says: #{said}): " <>
      "repair the Rust installation (`rustup default stable`), or " <> without_cargo()
  end

  defp minimum(needed) do
    [major, minor | _rest] = needed |> String.split(".") |> Enum.map(&String.to_integer/1)
    {major, minor}
  end

  defp without_cargo do
    "set LEASH_PREBUILT to an archive or a directory that holds leash_nif.so and leash-shim " <>
      "built elsewhere."
  end

  defp version(cargo), do: System.cmd(cargo, ["--version"], cd: @root, stderr_to_stdout: true)

  # Diagnostics and progress go to stderr as usual.
  defp call(cargo, target_dir, args) do
    # A crate may declare a newer Rust than it needs: what builds is written in Cargo.toml.
    common = ~w(build --ignore-rust-version --message-format=json-render-diagnostics)
    args = common ++ args
    {args, System.cmd(cargo, args, cd: @root, env: [{"CARGO_TARGET_DIR", target_dir}])}
  end

  defp messages({_args, {messages, 0}}), do: messages

  defp messages({args, {_messages, status}}),
    do: Mix.raise("`cargo #{Enum.join(args, " ")}` in #{@root} failed with status #{status}.")

  # Cargo reports where the artefact is. The place depends on cargo's configuration as much as on
  # the variables here.
  defp artefact(messages, pattern) do
    case Regex.scan(pattern, messages, capture: :all_but_first) do
      [] -> Mix.raise("cargo succeeded and named no artefact like #{inspect(pattern)}.")
      found -> found |> List.last() |> hd()
    end
  end
end
