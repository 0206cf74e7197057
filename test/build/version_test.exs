defmodule Leash.Build.VersionTest do
  use ExUnit.Case, async: true

  @root Path.expand("../..", __DIR__)

  test "Cargo.toml, mix.exs, the changelog and the README name one version" do
    version = to_string(Application.spec(:leash, :vsn))
    assert version == Mix.Tasks.Compile.LeashNative.version(@root)

    changelog = File.read!(Path.join(@root, "CHANGELOG.md"))
    assert [_all, newest] = Regex.run(~r/^## \[?v?(\d+\.\d+\.\d+[\w.-]*)/m, changelog)
    assert newest == version

    readme = File.read!(Path.join(@root, "README.md"))

    for [_all, named] <- Regex.scan(~r/\{:leash, "~> (\d+\.\d+(?:\.\d+)?)"/, readme) do
      assert Version.match?(version, "~> " <> named)
      assert String.starts_with?(version, named)
    end
  end
end
